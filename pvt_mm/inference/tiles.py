"""Images that are predicted piece by piece: where the tiles lie, and how objects are joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from mmcv.ops import batched_nms

from pvt_mm.results import Detection, area

__all__ = ["Span", "Tile", "join", "spans", "tiles"]

EDGE = 2  # pixels from its tile's edge within which a box ends because the tile does
COVERED = 0.7  # share of such a box that another one covers if both are of the same object


class Span(NamedTuple):
    """A tile's place along one axis, in pixels.

    Attributes:
        start: The first pixel.
        stop: The one after the last.
    """

    start: int
    stop: int


class Tile(NamedTuple):
    """A rectangle of an image."""

    x: Span
    y: Span

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the tile's part of an image ``(H, W, ...)``, without copying it."""
        return image[self.y.start : self.y.stop, self.x.start : self.x.stop]


def spans(length: int, size: int, overlap: float) -> list[Span]:
    """Cover a length by equal spans, evenly spread.

    Args:
        length: What is to be covered, in pixels.
        size: Length of a span; one span of ``length`` if that is shorter.
        overlap: The least share of a span that the next one covers, too.
    """
    if length <= size:
        return [Span(0, length)]
    step = max(1, int(size * (1 - overlap)))
    count = ceil((length - size) / step) + 1
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [Span(start, start + size) for start in starts]


def tiles(height: int, width: int, size: int | None, overlap: float) -> list[Tile]:
    """Cover an image by square tiles; None covers it by one.

    They go along its shorter side first, so that few pixels at a time have some, but not all, of
    their tiles behind them.
    """
    rows = spans(height, size or height, overlap)
    columns = spans(width, size or width, overlap)
    if height < width:
        return [Tile(x, y) for x in columns for y in rows]
    return [Tile(x, y) for y in rows for x in columns]


def join(
    parts: Sequence[tuple[Tile, Detection]], size: tuple[int, int], iou_threshold: float
) -> Detection:
    """Join the detections of an image's tiles.

    Tiles overlap, so the same object is found several times. Where a tile's edge cuts through it,
    the piece is left out if a larger box of the same class, from another tile, covers most of
    it; what is left goes through non-maximum suppression.

    Args:
        parts: Each tile with what was found in it, in pixels of the image.
        size: ``(H, W)`` of the image.
        iou_threshold: Of two boxes of a class that overlap more, the better one stays.

    Returns:
        The objects, best first.
    """
    found = _concatenated([detection for _, detection in parts])
    tile_of = np.repeat(np.arange(len(parts)), [len(detection) for _, detection in parts])
    cut = np.concatenate([_is_cut(detection.boxes, tile, size) for tile, detection in parts])
    kept = np.setdiff1d(np.arange(len(found)), list(_pieces(found, tile_of, np.flatnonzero(cut))))
    found = found.pick(kept)
    if not len(found):
        return found
    _, order = batched_nms(
        torch.from_numpy(found.boxes),
        torch.from_numpy(found.scores),
        torch.from_numpy(found.labels),
        {"type": "nms", "iou_threshold": iou_threshold},
    )
    return found.pick(order.numpy())


def _concatenated(parts: Sequence[Detection]) -> Detection:
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "scores", "labels")
    }
    masks = None
    if parts[0].masks is not None:
        masks = tuple(mask for part in parts for mask in part.masks)
    return replace(parts[0], **arrays, masks=masks)


def _is_cut(boxes: np.ndarray, tile: Tile, size: tuple[int, int]) -> np.ndarray:
    """Tell which boxes end where the tile does, though the image goes on."""
    cut = np.zeros(len(boxes), bool)
    for axis, (span, length) in enumerate(zip(tile, size[::-1], strict=True)):
        if span.start > 0:
            cut |= boxes[:, axis] <= span.start + EDGE
        if span.stop < length:
            cut |= boxes[:, axis + 2] >= span.stop - EDGE
    return cut


def _pieces(found: Detection, tile_of: np.ndarray, cut: np.ndarray) -> Iterable[int]:
    """Yield the indices of cut boxes that are part of a larger one."""
    areas = area(found.boxes)
    for index in cut:
        box = found.boxes[index]
        rivals = found.boxes[
            (found.labels == found.labels[index])
            & (tile_of != tile_of[index])
            & (areas > areas[index])
        ]
        shared = np.hstack([np.maximum(rivals[:, :2], box[:2]), np.minimum(rivals[:, 2:], box[2:])])
        if (area(shared) >= COVERED * areas[index]).any():
            yield index
