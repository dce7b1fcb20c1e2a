"""The fused operators as torch sees them: schema, fake implementation and gradient.

Opaque to ``torch.compile`` and safe in CUDA graphs. Triton is imported by the first call.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["dwconv_gelu_op"]

# No `from __future__ import annotations` here: torch derives the schemas from the annotations.


@torch.library.custom_op("pvt_mm::dwconv_gelu", mutates_args=())
def dwconv_gelu_op(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """Run the kernel; arguments as in :func:`pvt_mm.kernels.gpu.dwconv_gelu`."""
    from pvt_mm.kernels.gpu import launch

    return launch.forward(x, weight, bias, height, width)


@torch.library.custom_op("pvt_mm::dwconv_gelu_backward", mutates_args=())
def dwconv_gelu_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward kernels; returns the gradients of ``x``, ``weight`` and ``bias``."""
    from pvt_mm.kernels.gpu import launch

    return launch.backward(grad, x, weight, bias, height, width)


@dwconv_gelu_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@dwconv_gelu_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        torch.empty_like(bias, memory_format=torch.contiguous_format),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.height, ctx.width = inputs
    ctx.save_for_backward(x, weight, bias)  # not the E-wide result before the GELU


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    grads = dwconv_gelu_backward_op(grad, x, weight, bias, ctx.height, ctx.width)
    return *grads, None, None


dwconv_gelu_op.register_autograd(_differentiate, setup_context=_keep)
