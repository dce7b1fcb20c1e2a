"""Learning rates that decay from layer to layer, from the heads down to the first patches."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from pvt_mm.backbones import PVT, PVTv2
from pvt_mm.errors import UserError
from pvt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ["LayerDecayOptimizerConstructor"]

RATE = "layer_decay_rate"  # as mmpretrain calls it


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rates of a PVT's layers by powers of a decay rate.

    The last layer, to which necks and heads count, keeps the optimizer's learning rate; each layer
    before it has ``layer_decay_rate`` times that of the next one. What counts as a layer says the
    backbone's ``get_layer_depth``. Works for any model that holds PVTs, whatever its toolbox.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer.lr``.
        paramwise_cfg: ``layer_decay_rate``, above 0 and at most 1, and whatever mmengine's
            ``DefaultOptimWrapperConstructor`` takes, such as ``norm_decay_mult``, whose factors
            for learning rates multiply with ours.

    Raises:
        UserError: If the rate or the learning rate is missing or impossible, or the model that
            the constructor is called with has no PVT.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get(RATE)
        if type(rate) not in (int, float) or not 0 < rate <= 1:
            raise UserError(
                f"optim_wrapper.paramwise_cfg.{RATE} is {rate!r}; expected a number above 0 and "
                "at most 1, such as 0.8"
            )
        if self.base_lr is None:
            raise UserError("optim_wrapper.optimizer.lr is missing: there is nothing to decay from")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        """Add a module's parameters, each as a group; mmengine calls this for each submodule.

        Args:
            params: The optimizer's groups so far, changed in place.
            module: The model, or one of its submodules.
            prefix: The submodule's name; empty for the model.
            kwargs: What mmengine passes on to submodules.
        """
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        backbones = {
            f"{name}." if name else "": part
            for name, part in module.named_modules()
            if isinstance(part, (PVT, PVTv2))
        }
        if not backbones:
            raise UserError(
                f"LayerDecayOptimizerConstructor: {type(module).__name__} has no pvt_mm.PVT or "
                "pvt_mm.PVTv2 in it; use the constructor of its own toolbox"
            )
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for group in params:
            (parameter,) = group["params"]
            group["lr_scale"] = self._scale(names[id(parameter)], backbones)
            group["lr"] = group.get("lr", self.base_lr) * group["lr_scale"]

    def _scale(self, name: str, backbones: dict[str, nn.Module]) -> float:
        for prefix, backbone in backbones.items():
            if name.startswith(prefix):
                layer, num_layers = backbone.get_layer_depth(name, prefix)
                return self.paramwise_cfg[RATE] ** (num_layers - layer - 1)
        return 1.0
