"""Depth-wise 3x3 convolution, bias and GELU in one pass over the tokens."""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dwconv_gelu", "eager_dwconv_gelu", "is_available", "is_installed", "launches"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, E channels.

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def is_installed() -> bool:
    """Whether torch can run the kernel on this system, and the user has not turned it off."""
    return (
        os.environ.get("PVT_MM_KERNELS", "1") != "0"
        and torch.version.cuda is not None
        and hasattr(torch.library, "custom_op")  # torch 2.4
        and find_spec("triton") is not None
    )


INSTALLED = is_installed()  # asked once: torch.compile must see a constant

if hasattr(torch.library, "custom_op"):
    from pvt_mm.kernels.gpu.ops import dwconv_gelu_op


def dwconv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """Convolve each channel with its 3x3 kernel (stride 1, zero padding 1), add the bias, GELU.

    The Triton kernel does it in one pass and keeps nothing but its inputs for the backward pass;
    where it is not available (see :func:`is_available`), PyTorch's own operators do the same.

    Args:
        tokens: ``(B, N, E)``, row-major: ``n = y * W + x``.
        weight: ``(E, 1, 3, 3)``, the weight of ``nn.Conv2d(E, E, 3, padding=1, groups=E)``.
        bias: ``(E,)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.

    Returns:
        ``(B, N, E)``, with the exact (erf) GELU, in autocast's dtype where autocast is on. The
        kernel sums in float32 whatever the dtype, and rounds once, at the end.

    Raises:
        ValueError: If ``weight``, ``bias`` or ``hw`` does not fit the tokens.

    Reference: PVT v2, section 3.3, arXiv:2106.13797.
    """
    _check(tokens, weight, bias, hw)
    if is_available(tokens):
        if torch.is_autocast_enabled("cuda"):
            tokens = tokens.to(torch.get_autocast_dtype("cuda"))
        return dwconv_gelu_op(tokens, weight, bias, *hw)
    return eager_dwconv_gelu(tokens, weight, bias, hw)


def eager_dwconv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """Do the same with PyTorch's operators, on any device; arguments as in :func:`dwconv_gelu`."""
    maps = tokens.unflatten(1, hw).permute(0, 3, 1, 2)  # (B, E, H, W), a channels-last view
    maps = F.conv2d(maps, weight, bias, padding=1, groups=weight.shape[0])
    return F.gelu(maps).permute(0, 2, 3, 1).flatten(1, 2)


def is_available(tokens: Tensor) -> bool:
    """Whether the Triton kernel serves these tokens.

    It does for float32, float16 and bfloat16 on an NVIDIA GPU, with Triton installed and able to
    compile, outside exports and traces (which want PyTorch's own operators), and unless the
    environment variable ``PVT_MM_KERNELS`` was ``0`` when this module was imported.
    """
    if not (INSTALLED and tokens.is_cuda and tokens.dtype in DTYPES):
        return False
    if torch._C._get_tracing_state() or torch.onnx.is_in_onnx_export() or _is_exporting():
        return False
    # Compiled code needs a working Triton anyway, and cannot launch a kernel while it is traced.
    return torch.compiler.is_compiling() or launches(tokens.device, tokens.dtype)


def _is_exporting() -> bool:
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


@cache
def launches(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a small launch succeeds: Triton wants a C compiler, and a GPU it has code for."""
    try:
        from pvt_mm.kernels.gpu import launch

        x = torch.zeros(1, 64, 64, device=device, dtype=dtype)
        launch.forward(x, x.new_zeros(64, 1, 3, 3), x.new_zeros(64), 8, 8)
    except Exception as error:  # whatever it is, the eager path still works
        reason = str(error).strip().splitlines()[-1:] or [""]
        warnings.warn(
            f"the fused dwconv_gelu kernel is off, PyTorch's own operators are used instead: "
            f"{type(error).__name__}: {reason[0]} (PVT_MM_KERNELS=0 leaves it out silently)",
            stacklevel=2,
        )
        return False
    return True


def _check(tokens: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> None:
    channels = tokens.shape[-1]
    if tokens.dim() != 3 or hw[0] * hw[1] != tokens.shape[1]:
        raise ValueError(f"tokens {tuple(tokens.shape)} are not (B, H*W, E) of hw={tuple(hw)}")
    if tuple(weight.shape) != (channels, 1, 3, 3) or tuple(bias.shape) != (channels,):
        raise ValueError(
            f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} should be "
            f"({channels}, 1, 3, 3) and ({channels},), as the tokens have {channels} channels"
        )
