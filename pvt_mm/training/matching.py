"""A checkpoint must be the whole network's; mmengine alone loads what fits and goes on."""

import copy
from collections import OrderedDict

from mmengine.hooks import Hook
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import MODELS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from pvt_mm.backbones import PVT, PVTv2
from pvt_mm.checkpoints import CheckpointError, map_state_dict
from pvt_mm.checkpoints.key_mapping import identify
from pvt_mm.checkpoints.pretrained import adapt_state_dict, not_finite, not_floating, summary
from pvt_mm.config.loading import log
from pvt_mm.errors import UserError, some
from pvt_mm.registry import HOOKS
from pvt_mm.training.models import innermost

__all__ = ["MatchingKeysHook", "load_matching"]


@HOOKS.register_module()
class MatchingKeysHook(Hook):
    """Refuse a checkpoint whose parameters are not the model's; see :func:`load_matching`.

    Where a training starts from a checkpoint, another head may be left out; not where it resumes,
    or in a test.

    Raises:
        UserError: After the checkpoint was read, before anything is computed with it.
    """

    # After all that may still change the checkpoint, such as the exponential moving average.
    priority = "LOWEST"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the parameters strictly."""
        name = runner._load_from or f"in {runner.work_dir}"
        load_matching(_whole_model(runner), checkpoint, name, partly=_starts_training(runner))


def load_matching(model: nn.Module, checkpoint: dict, name: str, partly: bool = False) -> None:
    """Load a checkpoint's parameters, strictly.

    Args:
        model: The network, without wrappers.
        checkpoint: The checkpoint; its parameters are left in it under the model's names.
        name: Its name, for the message.
        partly: Whether a detector may get another head: only the PVTs in the model have to be
            there, whole. A checkpoint of a PVT alone then fills the model's one.

    Raises:
        UserError: If it is not the model's.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    own = model.state_dict()
    looks = identify(state)
    hint = f" (the file {looks})" if looks else ""
    if partly:
        state = _around(model, own, state)
    state = _adapted(model, state)
    checkpoint["state_dict"] = state
    _check_values(name, state, own, hint)
    reshaped = {
        key: f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    }
    fitting = OrderedDict((key, state[key]) for key in state if key not in reshaped)
    fitting._metadata = state._metadata
    # Modules may rename the keys of older versions while they load: so load, don't compare.
    missing, unexpected = model.load_state_dict(fitting, strict=False)
    if partly:
        inside = tuple(f"{name}." for name, _ in _pvts(model))
        apart = any(key.startswith(inside) for key in (*missing, *unexpected))
        if not apart and len(missing) < len(own):
            if reshaped:
                log(f"not loaded from {name}: {', '.join(reshaped.values())}")
                checkpoint["state_dict"] = fitting
            return
    faults = {
        "of another shape": list(reshaped.values()),
        "missing": [key for key in missing if key not in reshaped and not _is_harmless(key)],
        "unexpected": [key for key in unexpected if not _is_harmless(key)],
    }
    if any(faults.values()):
        found = "; ".join(f"{title}: {some(keys)}" for title, keys in faults.items() if keys)
        raise UserError(
            f"checkpoint {name} does not fit the config's model{hint}: {found}. "
            "Is it another config's checkpoint?"
        )


def _whole_model(runner: Runner) -> nn.Module:
    """Return what a checkpoint has to fit.

    The shards of a FlexibleRunner's model say nothing by their shapes: it is built anew, whole, as
    FSDP did in every process too.
    """
    if isinstance(runner, FlexibleRunner):
        return MODELS.build(copy.deepcopy(runner.cfg.model))
    return innermost(runner.model)


def _starts_training(runner: Runner) -> bool:
    """Whether weights are loaded to train from; a Runner that tests builds no optimizer."""
    return isinstance(runner.optim_wrapper, BaseOptimWrapper) and not runner._resume


def _check_values(name: str, state: dict, own: dict, hint: str) -> None:
    """Refuse what would be copied into the model's numbers without being any."""
    numbers = {
        key: value for key, value in state.items() if key in own and own[key].is_floating_point()
    }
    faults = {"not floating point": not_floating(numbers), "not finite": not_finite(numbers)}
    found = "; ".join(f"{title}: {some(keys)}" for title, keys in faults.items() if keys)
    if found:
        raise UserError(f"checkpoint {name}{hint} holds no usable weights: {found}")


def _pvts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(n, module) for n, module in model.named_modules() if isinstance(module, (PVT, PVTv2))]


def _around(model: nn.Module, own: dict, state: dict) -> dict:
    """Put a PVT that stands alone in a checkpoint where the model has its one."""
    prefixes = [f"{name}." for name, _ in _pvts(model)]
    if len(prefixes) != 1 or any(key.startswith(prefixes[0]) for key in state):
        return state
    if not any(key.startswith(prefixes[0]) for key in own):  # a classifier, with names of its own
        return state
    try:
        found, unused = map_state_dict(state)
    except CheckpointError:  # no PVT: the check after this names what is missing
        return state
    if unused:
        log(f"unused in the checkpoint: {summary(unused)}")
    return {f"{prefixes[0]}{key}": value for key, value in found.items()}


def _adapted(model: nn.Module, state: dict) -> OrderedDict:
    """Bring what another code base named differently under the names of the model's PVTs."""
    adapted = OrderedDict(state)
    adapted._metadata = getattr(state, "_metadata", None)  # the modules' versions
    for name, module in _pvts(model):
        adapt_state_dict(module, adapted, f"{name}." if name else "")
    return adapted


def _is_harmless(key: str) -> bool:
    # The constants of normalisation stand in the config; the counter is not used by ours.
    return key.startswith("data_preprocessor.") or key.endswith("num_batches_tracked")
