"""May a fast module compute past its parts? Only while these are what the backbone built."""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.modules.module as torch_module
from torch import nn

__all__ = ["obstacle"]

# What the plain modules are made of. Wrapped, quantised and parametrised layers are other types.
PARTS = (
    nn.AdaptiveAvgPool2d,
    nn.Conv2d,
    nn.Dropout,
    nn.GELU,
    nn.Identity,
    nn.LayerNorm,
    nn.Linear,
    nn.ReLU,
)
WEIGHTED = (nn.Conv2d, nn.LayerNorm, nn.Linear)
HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


def obstacle(module: nn.Module, known: Collection[type] = ()) -> str:
    """Say what somebody changed about the parts of a module.

    Args:
        module: The module; hooks of its own do not matter, as its call stays one call.
        known: Types besides ``PARTS`` that parts may have.

    Returns:
        A reason such as ``"fc1 is a LoraLinear"`` or ``"fc2 has a hook"``; ``""`` if all parts are
        as the backbone built them.
    """
    if any(getattr(torch_module, f"_global_{hooks}") for hooks in HOOKS):
        return "a hook is on all modules"
    for name, part in module.named_modules():
        if not name:
            continue
        if type(part) not in PARTS and type(part) not in known:
            return f"{name} is a {type(part).__name__}"
        if any(getattr(part, f"_{hooks}") for hooks in HOOKS):
            return f"{name} has a hook"
        if "forward" in vars(part):
            return f"{name} has another forward"
        # FSDP takes parameters away, quantizers put tensors of their own in their place.
        if isinstance(part, WEIGHTED) and type(part._parameters.get("weight")) is not nn.Parameter:
            return f"{name} has no weight of the usual kind"
    return ""
