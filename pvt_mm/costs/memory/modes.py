"""What GPUs do differently, shown to tensors that have no memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["GPUOperators", "SoftmaxInputs"]

# As in autocast's lists for CUDA: those of both that our models and heads use.
IN_HALF = {F.conv2d, F.conv_transpose2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm}
IN_FLOAT = {F.cross_entropy, F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax}
ATTENTION = F.scaled_dot_product_attention


class GPUOperators(TorchFunctionMode):
    """Fused attention, and mixed precision if asked for, on meta tensors.

    torch chooses neither there: attention would keep its weights, and autocast has no such device.

    Args:
        amp: Whether to compute as ``torch.autocast("cuda", torch.float16)`` does.
    """

    def __init__(self, amp: bool) -> None:
        super().__init__()
        self.amp = amp

    def __torch_function__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call ``func`` with tensors of the type that it gets on a GPU."""
        kwargs = kwargs or {}
        if self.amp and (func in IN_HALF or func is ATTENTION):
            args, kwargs = _cast(args, kwargs, torch.float16)
        elif self.amp and func in IN_FLOAT:
            args, kwargs = _cast(args, kwargs, torch.float32)
        if func is ATTENTION:
            query, key, value = args[:3]
            fused = torch.ops.aten._scaled_dot_product_efficient_attention
            return fused(query, key, value, None, compute_log_sumexp=True)[0]
        return func(*args, **kwargs)


def _cast(args: tuple, kwargs: dict, dtype: torch.dtype) -> tuple[tuple, dict]:
    def change(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if is_float else value

    return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}


class SoftmaxInputs(TorchFunctionMode):
    """Sums the bytes that go into softmaxes, which torch before 1.11 kept beside what comes out."""

    total = 0

    def __torch_function__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call ``func``."""
        if func is F.multi_head_attention_forward:  # its softmax is out of sight
            self.total += _weight_bytes(*args[:2], num_heads=args[4])
        elif func in (F.softmax, torch.softmax, Tensor.softmax):
            self.total += args[0].nbytes
        return func(*args, **(kwargs or {}))


def _weight_bytes(query: Tensor, key: Tensor, num_heads: int) -> int:
    # (N, B, C) and (M, B, C)
    return query.shape[1] * num_heads * query.shape[0] * key.shape[0] * query.element_size()
