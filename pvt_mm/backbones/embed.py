"""From feature maps to tokens: patch embedding and the position embedding of PVT v1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.backbones.recording import is_recording

__all__ = ["PatchEmbed", "map_to_tokens", "resize_pos_embed", "tokens_to_map"]

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


class PatchEmbed(nn.Module):
    """Cut a map into patches and embed each as one token: a strided convolution and a norm.

    PVT v1 uses non-overlapping patches (``kernel_size == stride``, no padding), PVT v2
    overlapping ones (``kernel_size > stride``, ``padding = kernel_size // 2``).

    Args:
        in_channels: Channels of the map that comes in.
        embed_dims: Channels ``C`` of the tokens.
        kernel_size: Side of a patch, in pixels of the map that comes in.
        stride: Distance between two patches.
        padding: Zeros added at each border of the map.

    Shape:
        x: ``(B, in_channels, h, w)``.
        returns: ``(B, N, C)`` tokens, row-major, and their ``(H, W)``.

    Reference: PVT, section 3.2, arXiv:2102.12122; PVT v2, section 3.2, arXiv:2106.13797.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, kernel_size: int, stride: int, padding: int = 0
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(embed_dims)  # eps 1e-5 here, 1e-6 in the blocks: as released

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed the patches of ``x``."""
        x = self.proj(x)  # (B, C, H, W)
        hw = (x.shape[2], x.shape[3])
        return self.norm(map_to_tokens(x)), hw


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Resize a learned position embedding to another map, bilinearly.

    Args:
        pos_embed: ``(1, N, C)`` with ``N = grid[0] * grid[1]``, without a class-token entry.
        grid: ``(H, W)`` for which the embedding was learned.
        hw: ``(H, W)`` that is wanted.

    Returns:
        ``(1, hw[0] * hw[1], C)``; the same tensor if ``hw == grid``.

    Reference: PVT, section 3.4, arXiv:2102.12122. The authors' code compares token counts, not
    height and width, and so misplaces the embedding of, say, a 112x448 image.
    """
    # A graph for any size must not leave it out for this one.
    if (torch.jit.is_tracing() or not is_recording()) and hw == grid:
        return pos_embed
    as_map = tokens_to_map(pos_embed, grid)
    return map_to_tokens(F.interpolate(as_map, size=hw, mode="bilinear", align_corners=False))
