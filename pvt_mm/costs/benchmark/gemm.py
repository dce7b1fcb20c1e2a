"""The rate at which this machine multiplies matrices: what a network could reach at best."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pvt_mm.devices import has_bfloat16

__all__ = ["gemm_rates", "higher_rates"]

SIDE = 2048
SECONDS = 0.7  # for each rate


def gemm_rates(side: int = SIDE, seconds: float = SECONDS) -> dict[str, float]:
    """Time products of two square matrices with the threads that torch has now.

    float32 is multiplied twice: by torch's matrix product, which is MKL's in PyTorch's x86 wheels,
    and as a 1x1 convolution, which is oneDNN's. Which one is faster depends on the processor.

    Args:
        side: Rows and columns of a matrix.
        seconds: How long each rate is measured.

    Returns:
        FLOP/s of the fastest call, by ``'float32'``, ``'float32 by oneDNN'`` and ``'bfloat16'``;
        without the second where PyTorch has no oneDNN, without the third where the processor would
        emulate it, which takes a minute for one product.
    """
    a = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], Tensor]] = {"float32": lambda: a @ a}
    if torch.backends.mkldnn.is_available():
        maps = a.t().reshape(1, side, side, 1).to(memory_format=torch.channels_last)
        kernel = a[:, :, None, None]
        ways["float32 by oneDNN"] = lambda: F.conv2d(maps, kernel)
    if has_bfloat16("cpu"):
        half = a.bfloat16()
        ways["bfloat16"] = lambda: half @ half
    with torch.inference_mode():
        return {name: 2 * side**3 / _fastest(way, seconds) for name, way in ways.items()}


def higher_rates(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Take the better of two looks: other programs may have slowed either of them."""
    return {name: max(rate, other.get(name, 0.0)) for name, rate in one.items()}


def _fastest(call: Callable[[], Tensor], seconds: float) -> float:
    call()
    times = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
