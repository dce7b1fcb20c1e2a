"""Linear layers over tokens, by the fastest kernel that PyTorch has for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from pvt_mm.kernels.cpu.processor import mkl_is_slow
from pvt_mm.kernels.recording import is_recording
from pvt_mm.tokens import map_to_tokens, tokens_to_map

__all__ = ["linear", "linear_gradients", "onednn_convolves", "weight_gradient"]

# With fewer, a convolution's call costs more than it gains: it sorts the weight anew each time.
FEWEST_TOKENS = 2048
FEWEST_TOKENS_SLOW_MKL = 512

# Shape legend: B batch, N tokens, C channels in, K channels out.


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Project tokens; on CPUs, for no gradient or on AMD's with AVX-512, as a 1x1 convolution.

    The numbers are those of ``F.linear`` up to rounding. PyTorch hands convolutions to oneDNN and
    matrix products to MKL, which is the slower of the two for tall matrices with few columns, and
    on processors that are not Intel's.

    Args:
        tokens: ``(B, N, C)``.
        weight: ``(K, C)``.
        bias: ``(K,)``, or None.

    Returns:
        ``(B, N, K)``.
    """
    if not _convolves(tokens):
        return F.linear(tokens, weight, bias)
    column = tokens_to_map(tokens, (tokens.shape[1], 1))  # (B, C, N, 1), a view
    return map_to_tokens(F.conv2d(column, weight[:, :, None, None], bias))


def weight_gradient(grad: Tensor, tokens: Tensor) -> Tensor:
    """Sum the outer products of gradients and tokens: the gradient of :func:`linear`'s weight.

    Args:
        grad: Gradient with respect to the result, ``(B, N, K)``.
        tokens: ``(B, N, C)``.

    Returns:
        ``(K, C)``.
    """
    tokens = tokens.to(grad.dtype)  # autocast does not reach what follows
    if not (_convolves(tokens) and mkl_is_slow()):
        return grad.flatten(0, 1).t() @ tokens.flatten(0, 1)
    column = (tokens.shape[1], 1)
    shape = (grad.shape[2], tokens.shape[2], 1, 1)
    maps = (tokens_to_map(tokens, column), shape, tokens_to_map(grad, column))
    return conv2d_weight(*maps)[:, :, 0, 0]


def linear_gradients(
    grad: Tensor, tokens: Tensor, weight: Tensor, wanted: Sequence[bool] = (True, True, True)
) -> tuple[Tensor | None, ...]:
    """Do what autograd does for :func:`linear` in the backward pass, by the same kernels.

    Args:
        grad: Gradient with respect to the result, ``(B, N, K)``.
        tokens: ``(B, N, C)``.
        weight: ``(K, C)``.
        wanted: Which of the three gradients to compute.

    Returns:
        The gradients with respect to tokens, weight and bias, None for those not wanted.
    """
    tokens, weight = tokens.to(grad.dtype), weight.to(grad.dtype)  # as for weight_gradient
    if not (_convolves(tokens) and mkl_is_slow()):
        return (
            grad @ weight if wanted[0] else None,
            weight_gradient(grad, tokens) if wanted[1] else None,
            grad.sum((0, 1)) if wanted[2] else None,
        )
    column = (tokens.shape[1], 1)
    maps = (tokens_to_map(grad, column), tokens_to_map(tokens, column), weight[:, :, None, None])
    form = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)  # stride, padding, dilation, ..., groups
    grad_maps, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        *maps, (weight.shape[0],), *form, wanted
    )
    return (
        map_to_tokens(grad_maps) if wanted[0] else None,
        grad_weight[:, :, 0, 0] if wanted[1] else None,
        grad_bias,
    )


def onednn_convolves(tokens: Tensor) -> bool:
    """Whether PyTorch hands 1x1 convolutions over such tokens to oneDNN."""
    if is_recording():
        return False  # whoever records a graph optimises plain products better
    supported = tokens.device.type == "cpu" and tokens.dtype in (torch.float32, torch.bfloat16)
    # With one thread it keeps them to itself.
    return supported and torch.get_num_threads() > 1 and torch.backends.mkldnn.is_available()


def _convolves(tokens: Tensor) -> bool:
    if tokens.ndim != 3 or not onednn_convolves(tokens):
        return False
    # Without AVX-512 its gradient of a weight takes thrice as long as MKL's, and with it on Intel's
    # processors as long. In bfloat16 PyTorch hands products to oneDNN, too.
    if mkl_is_slow():
        by_mkl = tokens.dtype == torch.float32
        return tokens.shape[1] >= (FEWEST_TOKENS_SLOW_MKL if by_mkl else FEWEST_TOKENS)
    return tokens.shape[1] >= FEWEST_TOKENS and not torch.is_grad_enabled()
