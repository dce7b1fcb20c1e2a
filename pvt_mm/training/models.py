"""What several options do to a built model: reach it, and change what flows through it."""

from collections.abc import Callable
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

__all__ = ["innermost", "map_tensors"]


def innermost(model: nn.Module) -> nn.Module:
    """Return the detector, segmentor or classifier inside wrappers and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Change every tensor in nested lists and tuples; whatever else is there stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(change, item) for item in value)
    return value
