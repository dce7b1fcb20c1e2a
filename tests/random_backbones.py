"""Backbones with random weights, so large that a wrong product shows, and how far maps differ."""

import torch

from pvt_mm.archs import ARCHS
from pvt_mm.registry import MODELS


def build(arch="pvt_v2_b0", **options):
    """A backbone by its name, in eval mode, always with the same weights."""
    torch.manual_seed(0)
    backbone = MODELS.build({**ARCHS[arch].config, **options}).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def image(*size):
    """Standard normal values, always the same ones."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def largest_difference(maps, expected):
    """The largest difference of any map, of its largest value."""
    pairs = zip(maps, expected, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
