"""Patch embedding: from a map to the tokens of the next stage."""

from __future__ import annotations

from torch import Tensor, nn

from pvt_mm.tokens import map_to_tokens

__all__ = ["PatchEmbed"]

# Shape legend: B batch, C channels, (H, W) map in tokens, N = H*W tokens.


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
