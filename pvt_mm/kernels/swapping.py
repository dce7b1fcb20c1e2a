"""From plain modules to their fast twins and back, in place."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmengine.logging import print_log
from torch import nn

from pvt_mm.backbones.block import DropPath
from pvt_mm.backbones.mlp import DepthwiseConv
from pvt_mm.kernels.cpu.bound import forget
from pvt_mm.kernels.modules import PREPACKED_TWINS, TWINS, FastMlp, Products
from pvt_mm.kernels.parts import obstacle
from pvt_mm.wording import some

__all__ = ["Acceleration", "accelerate", "restore"]

_PLAIN = {twin: plain for twins in (TWINS, PREPACKED_TWINS) for plain, twin in twins.items()}
_OPTIONS = {"recompute": FastMlp, "prepack": Products}  # which modules have them
_KNOWN = (*TWINS, *_PLAIN, DepthwiseConv, DropPath)


@dataclass
class Acceleration:
    """What :func:`accelerate` did.

    Args:
        swapped: Names of the modules that are fast now.
        plain: By name, why a module stays plain.
    """

    swapped: list[str] = field(default_factory=list)
    plain: dict[str, str] = field(default_factory=dict)


def accelerate(model: nn.Module, *, recompute: bool = False, prepack: bool = False) -> Acceleration:
    """Make the PVTs in a model fast, in place: their modules become their fast twins.

    Results stay the same up to rounding. Parameters, buffers, names, hooks and the modules
    themselves stay what they are, so that an optimizer or a state dict made before still fits: a
    module only changes its class, as FSDP2 does it. Modules with parts that were wrapped, hooked,
    parametrised or replaced stay plain; where that happens later, a fast module computes plainly
    from then on. Fast modules have no second derivative and no ``torch.func`` transforms; in
    ``torch.compile``, exports and traces they are the plain ones.

    Args:
        model: A backbone, or whatever has some inside.
        recompute: Whether the MLPs, in training on CPUs, keep one of their three wide tensors and
            compute the others anew in the backward pass: two thirds of the memory, more time.
        prepack: Whether inference on CPUs sorts each weight once, for all calls, as oneDNN reads
            it, and keeps that beside the weight: less time, most of all for small images. A weight
            that is changed through its ``.data``, which PyTorch does not count as a change, has to
            be given to :func:`accelerate` again.

    Returns:
        What was swapped and what was not; the latter is logged as well.
    """
    done = Acceleration()
    twins = TWINS | PREPACKED_TWINS if prepack else TWINS
    forget(model)
    sharded = any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules())
    for name, module in model.named_modules():
        twin = twins.get(type(module))
        if twin is None:
            continue
        if sharded:  # parameters come and go, also between a forward pass and its recomputation
            reason = "FSDP shards the model"
        elif "forward" in vars(module):
            reason = "it has another forward"
        else:
            reason = obstacle(module, _KNOWN)
        if reason:
            done.plain[name] = reason
        else:
            module.__class__ = twin
            done.swapped.append(name)
    for option, value in (("recompute", recompute), ("prepack", prepack)):
        for module in model.modules():
            # Only where it is not the default, an option is an attribute of the module.
            if isinstance(module, _OPTIONS[option]) and getattr(module, option) != value:
                setattr(module, option, value)
    if done.plain:
        reasons = [f"{name or 'the model'} ({reason})" for name, reason in done.plain.items()]
        print_log(f"accelerate leaves plain: {some(reasons)}", logger="current")
    return done


def restore(model: nn.Module) -> list[str]:
    """Make every fast module in a model the plain one that it was, in place.

    Args:
        model: A model that :func:`accelerate` has changed.

    Returns:
        The names of the modules that are plain again.
    """
    forget(model)
    restored = []
    for name, module in model.named_modules():
        if type(module) in _PLAIN:
            for option in _OPTIONS:
                vars(module).pop(option, None)
            module.__class__ = _PLAIN[type(module)]
            restored.append(name)
    return restored
