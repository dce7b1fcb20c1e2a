"""Pyramid Vision Transformer backbones, v1 and v2."""

from pvt_mm.archs import ARCHS, Arch
from pvt_mm.backbones.attention import (
    LinearSpatialReductionAttention,
    SpatialReductionAttention,
)
from pvt_mm.backbones.pvt import PVT, PVTv2

__all__ = [
    "ARCHS",
    "PVT",
    "Arch",
    "LinearSpatialReductionAttention",
    "PVTv2",
    "SpatialReductionAttention",
]
