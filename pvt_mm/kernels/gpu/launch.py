"""From tensors to kernel launches: tile sizes, grids, buffers."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pvt_mm.kernels.gpu.triton_dwconv import conv_kernel, grad_kernel

__all__ = ["backward", "choose_tile", "forward"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, E channels, S strips.

# Eight columns by 64 channels by four warps give each thread four channels: few enough registers
# (at most 96 forward and 168 backward on Hopper) for 20 and 12 warps per multiprocessor.
BLOCK_W, BLOCK_C, WARPS = 8, 64, 4
STAGES = 4  # rows in flight, so that arithmetic need not wait for memory
PROGRAMS = 1024  # at least so many where the map allows it: about eight per multiprocessor


def forward(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """Compute ``gelu(conv(x) + bias)``; arguments as in :func:`pvt_mm.kernels.gpu.dwconv_gelu`."""
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    return _convolve(x, weight, bias, height, width, grad=False)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of ``x``, ``weight`` and ``bias`` from ``(B, N, E)`` ``grad``.

    The strips' shares of the weight's gradient are added up in a fixed order, so the result is
    the same in every run.
    """
    grad, x = grad.contiguous(), x.contiguous()
    weight, bias = weight.contiguous(), bias.contiguous()
    channels = x.shape[2]
    tile, strips, grid = choose_tile(x, height, width)
    grad_z = torch.empty_like(x)
    sums = x.new_empty((strips, 10, channels), dtype=_sum_dtype(x))
    with torch.cuda.device_of(x):
        grad_kernel[grid](x, weight, bias, grad, grad_z, sums, height, width, channels, **tile)
    sums = sums.sum(0)  # (10, E): nine taps and the bias
    grad_weight = sums[:9].t().contiguous().view(weight.shape).to(weight.dtype)
    grad_bias = sums[9].to(bias.dtype, copy=True)
    return _convolve(grad_z, weight, bias, height, width, grad=True), grad_weight, grad_bias


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int, grad: bool
) -> Tensor:
    y = torch.empty_like(x)
    tile, _, grid = choose_tile(x, height, width)
    with torch.cuda.device_of(x):
        conv_kernel[grid](x, weight, bias, y, height, width, x.shape[2], GRAD=grad, **tile)
    return y


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def choose_tile(x: Tensor, height: int, width: int) -> tuple[dict[str, Any], int, tuple[int]]:
    """Choose the tile by the shape alone: no trial runs at start-up, equal sums on every GPU.

    Returns:
        The kernels' tile arguments, the number of strips, and the grid.
    """
    batch, _, channels = x.shape
    columns = batch * triton.cdiv(width, BLOCK_W)
    c_blocks = triton.cdiv(channels, BLOCK_C)
    rows = 4
    while rows < 32 and columns * c_blocks * triton.cdiv(height, 2 * rows) >= PROGRAMS:
        rows *= 2
    strips = columns * triton.cdiv(height, rows)
    tile = {
        "ROWS": rows,
        "BLOCK_W": BLOCK_W,
        "BLOCK_C": BLOCK_C,
        "STAGES": STAGES,
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "num_warps": WARPS,
        "enable_fp_fusion": True,  # Triton's default is about to change
    }
    return tile, strips, (strips * c_blocks,)
