"""Work through a map in bands of rows, so that wide hidden tokens exist for one band at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pvt_mm.kernels.recording import is_recording

__all__ = ["Band", "cut_in_bands", "map_in_bands", "wants_bands"]

# What a band may hold, in bytes: it stays in a processor's cache, and where the C library gives a
# whole map's memory back to the system each time, fresh pages cost several times what a GELU does.
# A training that recomputes cuts all maps that are larger, as it keeps something for each block.
# Where nothing is kept, smaller maps than the second would lose time and gain memory that nobody
# misses.
BAND_BYTES = 8 * 2**20
LARGE_BYTES = 32 * 2**20


class Band(NamedTuple):
    """Rows of one image's map that are made together, and the rows around them that are read.

    Attributes:
        image: Index of the image in its batch.
        start: First row that is made.
        stop: Row after the last one that is made.
        above: Rows above ``start`` that are only read.
        below: Rows from ``stop`` on that are only read.
        width: Tokens in a row.
    """

    image: int
    start: int
    stop: int
    above: int
    below: int
    width: int

    @classmethod
    def whole(cls, hw: tuple[int, int]) -> Band:
        """All rows of an ``(H, W)`` map."""
        return cls(0, 0, hw[0], 0, 0, hw[1])

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of what is read, in tokens."""
        return self.above + self.stop - self.start + self.below, self.width

    def read(self, tokens: Tensor) -> Tensor:
        """View the ``(1, n, C)`` tokens that are read, of ``(B, N, C)``."""
        first = (self.start - self.above) * self.width
        return tokens[self.image : self.image + 1, first : first + self.hw[0] * self.width]

    def made(self, tokens: Tensor) -> Tensor:
        """View the ``(1, m, C)`` tokens that are made, of ``(B, N, C)``."""
        rows = slice(self.start * self.width, self.stop * self.width)
        return tokens[self.image : self.image + 1, rows]

    def without_halo(self, tokens: Tensor) -> Tensor:
        """View the ``(1, m, C)`` tokens that are made, of the ``(1, n, C)`` that are read."""
        if not (self.above or self.below):
            return tokens
        return tokens[:, self.above * self.width : tokens.shape[1] - self.below * self.width]


def wants_bands(tokens: Tensor, hidden_dims: int) -> bool:
    """Whether ``hidden_dims`` channels for each of the tokens are better made band by band.

    They are on CPUs, where memory limits their speed, and where a map is large.
    """
    if tokens.device.type != "cpu" or is_recording():
        return False  # a loop over bands would be recorded for one size of image
    wide = tokens.shape[1] * hidden_dims * tokens.element_size()
    return wide > (BAND_BYTES if torch.is_grad_enabled() else LARGE_BYTES)


def cut_in_bands(
    tokens: Tensor, hw: tuple[int, int], hidden_dims: int, halo: int = 0
) -> Iterator[Band]:
    """Cut a batch of maps into bands, image by image and from top to bottom.

    Args:
        tokens: ``(B, H*W, C)``.
        hw: ``(H, W)`` in tokens.
        hidden_dims: Channels that a token has at its widest.
        halo: Rows that the making of a row reads above and below itself, where the map has them.
    """
    height, width = hw
    row_bytes = width * hidden_dims * tokens.element_size()
    # Not fewer than four halos, lest most of the work go into those.
    rows = max(BAND_BYTES // row_bytes, 4 * halo, 1)
    for image in range(tokens.shape[0]):
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            yield Band(image, start, stop, min(halo, start), min(halo, height - stop), width)


def map_in_bands(
    mix: Callable[[Tensor, Band], Tensor],
    tokens: Tensor,
    hw: tuple[int, int],
    hidden_dims: int,
    halo: int = 0,
) -> Tensor:
    """Compute ``mix`` of every band.

    Args:
        mix: From what a band reads, ``(1, n, C)``, to what is made of it, ``(1, m, C)``.
        tokens: ``(B, H*W, C)``.
        hw: See :func:`cut_in_bands`.
        hidden_dims: See :func:`cut_in_bands`.
        halo: See :func:`cut_in_bands`.

    Returns:
        ``(B, H*W, C)``.
    """
    out = torch.empty_like(tokens)
    for band in cut_in_bands(tokens, hw, hidden_dims, halo):
        band.made(out).copy_(mix(band.read(tokens), band))
    return out
