"""Fused GPU operators, each with an eager twin that serves wherever the kernel cannot."""

from pvt_mm.kernels.gpu.dwconv_gelu import dwconv_gelu, is_available

__all__ = ["dwconv_gelu", "is_available"]
