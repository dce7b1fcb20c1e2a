"""A checkpoint must be the whole network's; mmengine alone loads what fits and goes on."""

from collections import OrderedDict

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from .errors import UserError, some

__all__ = ["MatchingKeysHook"]


class MatchingKeysHook(Hook):
    """Refuse a checkpoint whose parameters are not exactly the model's.

    Args:
        name: The checkpoint's name, for the message.

    Raises:
        UserError: After the checkpoint was read, before anything is computed with it.
    """

    # After all that may still change the checkpoint, such as the exponential moving average.
    priority = "LOWEST"

    def __init__(self, name: str) -> None:
        self.name = name

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the parameters strictly."""
        model = _innermost(runner.model)
        state = checkpoint.get("state_dict", checkpoint)
        if state and all(key.startswith("module.") for key in state):
            state = {key.removeprefix("module."): value for key, value in state.items()}
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        reshaped = {
            key: f"{key} {tuple(value.shape)} for {tuple(shapes[key])}"
            for key, value in state.items()
            if key in shapes and value.shape != shapes[key]
        }
        fitting = OrderedDict((key, state[key]) for key in state if key not in reshaped)
        fitting._metadata = getattr(state, "_metadata", None)  # the modules' versions
        # Modules may rename the keys of older versions while they load: so load, don't compare.
        missing, unexpected = model.load_state_dict(fitting, strict=False)
        faults = {
            "of another shape": list(reshaped.values()),
            "missing": [key for key in missing if key not in reshaped and not _is_harmless(key)],
            "unexpected": [key for key in unexpected if not _is_harmless(key)],
        }
        if any(faults.values()):
            found = "; ".join(f"{title}: {some(keys)}" for title, keys in faults.items() if keys)
            raise UserError(
                f"checkpoint {self.name} does not fit the config's model: {found}. "
                "Is it another config's checkpoint?"
            )


def _innermost(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _is_harmless(key: str) -> bool:
    # The constants of normalisation stand in the config; the counter is not used by ours.
    return key.startswith("data_preprocessor.") or key.endswith("num_batches_tracked")
