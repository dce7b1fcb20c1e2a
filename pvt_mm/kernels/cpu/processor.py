"""What the processor makes of PyTorch's own kernels, as measured on several of each kind."""

from __future__ import annotations

import re
from functools import cache

import torch

from pvt_mm.devices import read_cpu_info

__all__ = ["fused_attention_is_slow", "mkl_is_slow"]


@cache
def mkl_is_slow() -> bool:
    """Whether MKL leaves AVX-512 alone, which it does on processors that are not Intel's."""
    if not read_cpu_info() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return torch.backends.mkl.is_available() and "GenuineIntel" not in read_cpu_info()


@cache
def fused_attention_is_slow(dtype: torch.dtype) -> bool:
    """Whether PyTorch's fused attention computes at less than two thirds of the processor's rate.

    In float32 it calls MKL, which uses half of the units of AMD's processors from Zen 5 on, family
    26. Zen 4 computes AVX-512 in two halves, so that there MKL is a tenth slower than oneDNN only.
    In bfloat16 it calls oneDNN for blocks too small to be fast, except with AMX.
    """
    if dtype == torch.float32:
        family = re.search(r"^cpu family\s*: (\d+)$", read_cpu_info(), re.MULTILINE)
        return mkl_is_slow() and family is not None and int(family[1]) >= 26
    flags = read_cpu_info().split()
    return dtype == torch.bfloat16 and "avx512_bf16" in flags and "amx_bf16" not in flags
