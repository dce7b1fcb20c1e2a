"""May a fast module compute past its parts? Only while these are what the backbone built."""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.modules.module as torch_module
from torch import nn

__all__ = ["has_global_hooks", "obstacle"]

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
# Parts whose work a fast module does itself or leaves out, by the names that all modules give them;
# besides the types that the caller knows.
ROLES: dict[str, tuple[type, ...]] = {
    "act": (nn.GELU,),
    "drop": (nn.Dropout, nn.Identity),
    "drop_path": (nn.Identity,),
    "dwconv": (nn.Conv2d,),
    "fc1": (nn.Linear,),
    "fc2": (nn.Linear,),
    "kv": (nn.Linear,),
    "proj": (nn.Linear, nn.Conv2d),
    "proj_drop": (nn.Dropout, nn.Identity),
    "q": (nn.Linear,),
    "relu": (nn.ReLU, nn.Identity),
    "sr": (nn.Conv2d,),
}


def has_global_hooks() -> bool:
    """Whether somebody hooked all modules there are."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def obstacle(module: nn.Module, known: Collection[type] = ()) -> str:
    """Say what somebody changed about the parts of a module.

    Args:
        module: The module; hooks of its own do not matter, as its call stays one call.
        known: Types besides ``PARTS`` that parts may have.

    Returns:
        A reason such as ``"fc1 is a LoraLinear"`` or ``"fc2 has a hook"``; ``""`` if all parts are
        such as the backbone builds.
    """
    if has_global_hooks():
        return "a hook is on all modules"
    for name, part in module._modules.items():
        change = _change_of(name, part, known)
        if change:
            return name + change
    return ""


def _change_of(name: str, part: nn.Module | None, known: Collection[type]) -> str:
    """Say what follows a part's name; each call of a small network asks, so this has to be fast."""
    if part is None:
        return ""
    kind, state = type(part), vars(part)
    if kind not in ROLES.get(name, PARTS) and kind not in known:
        return f" is a {kind.__name__}"
    if state["_forward_hooks"] or state["_forward_pre_hooks"]:
        return " has a hook"
    if state["_backward_hooks"] or state["_backward_pre_hooks"]:
        return " has a hook"
    if "forward" in state:
        return " has another forward"
    # FSDP takes parameters away, quantizers put tensors of their own in their place.
    if kind in WEIGHTED and type(state["_parameters"].get("weight")) is not nn.Parameter:
        return " has no weight of the usual kind"
    if isinstance(part, nn.GELU) and part.approximate != "none":
        return f" is {part}"
    if isinstance(part, nn.Conv2d) and not _is_usual(name, part):
        return f" is {part}"
    for child_name, child in state["_modules"].items():
        change = _change_of(child_name, child, known)
        if change:
            return f".{child_name}{change}"
    return ""


def _is_usual(name: str, conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    if name != "dwconv":
        return True
    form = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return form == ((3, 3), (1, 1), (1, 1), (1, 1)) and conv.groups == conv.in_channels
