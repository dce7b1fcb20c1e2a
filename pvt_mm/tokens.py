"""The two shapes of a feature, tokens and map, and how a position embedding changes size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["map_to_tokens", "resize_pos_embed", "tokens_to_map"]

# Shape legend: B batch, C channels, (H, W) map in tokens, N = H*W tokens.


def tokens_to_map(tokens: Tensor, hw: tuple[int, int]) -> Tensor:
    """View ``(B, H*W, C)`` tokens as a ``(B, C, H, W)`` map.

    No element moves: the map has the channels-last strides that convolutions like best.
    """
    # In this order a batch of one keeps its batch stride; transposed first, it would lose it, and
    # convolutions would copy the map because they no longer see channels-last strides.
    return tokens.unflatten(1, hw).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """View a ``(B, C, H, W)`` map as ``(B, H*W, C)`` tokens."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Resize a learned position embedding to another map, bilinearly.

    Args:
        pos_embed: ``(1, N, C)`` with ``N = grid[0] * grid[1]``, without a class-token entry.
        grid: ``(H, W)`` for which the embedding was learned.
        hw: ``(H, W)`` that is wanted.

    Returns:
        ``(1, hw[0] * hw[1], C)``; equal to ``pos_embed`` if ``hw == grid``.

    Reference: PVT, section 3.4, arXiv:2102.12122. The authors' code compares token counts, not
    height and width, and so misplaces the embedding of, say, a 112x448 image.
    """
    as_map = tokens_to_map(pos_embed, grid)
    return map_to_tokens(F.interpolate(as_map, size=hw, mode="bilinear", align_corners=False))
