"""What a network returns for the tiles of an image, gathered into one result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from pvt_mm.errors import UserError
from pvt_mm.inference.model import LoadedModel
from pvt_mm.inference.samples import detection
from pvt_mm.inference.tiles import Span, Tile, join
from pvt_mm.results import Detection, Segmentation, labels_of

__all__ = ["Labels", "Objects", "gather"]

Cell = tuple[int, int, int, int]  # top, bottom, left, right


def gather(
    model: LoadedModel, tiles: Sequence[Tile], size: tuple[int, int], score_thr: float
) -> Labels | Objects:
    """Begin the result of an image.

    Args:
        model: The network that predicts the tiles.
        tiles: All tiles of the image.
        size: ``(H, W)`` of the image.
        score_thr: Objects of a lower score are left out.
    """
    if model.is_segmentor:
        return Labels(model, tiles, size)
    return Objects(model, size, score_thr)


class Objects:
    """The objects in an image; those of several tiles are joined as :func:`join` does it."""

    def __init__(self, model: LoadedModel, size: tuple[int, int], score_thr: float) -> None:
        self._model, self._size, self._score_thr = model, size, score_thr
        self._parts: list[tuple[Tile, Detection]] = []

    def add(self, tile: Tile, sample: BaseDataElement) -> None:
        """Take what a detector returned for a tile."""
        names, palette = self._model.class_names, self._model.palette
        found = detection(sample, names, palette, tile, self._size, self._score_thr)
        self._parts.append((tile, found))

    def result(self) -> Detection:
        """Return the objects, best first."""
        if len(self._parts) == 1:
            return self._parts[0][1]
        return join(self._parts, self._size, self._model.iou_threshold)


class Labels:
    """The class of each pixel of an image, by the mean of the scores that all its tiles give it.

    The labels are those of MMSegmentation's slide mode, which holds the scores of the whole image
    three times or more. Here a score waits only until the last tile that has its pixel has come.
    """

    def __init__(self, model: LoadedModel, tiles: Sequence[Tile], size: tuple[int, int]) -> None:
        self._model, self._tiles = model, tiles
        dtype = np.uint8 if len(model.class_names) <= 256 else np.uint16
        self._labels = np.empty(size, dtype)
        self._rows = _edges([tile.y for tile in tiles])
        self._columns = _edges([tile.x for tile in tiles])
        # How many tiles have a cell, and those that are still to come.
        self._covered = Counter(cell for tile in tiles for cell in self._cells(tile))
        self._missing = self._covered.copy()
        self._sums: dict[Cell, Tensor] = {}

    def add(self, tile: Tile, sample: BaseDataElement) -> None:
        """Take what a segmentor returned for a tile.

        Raises:
            UserError: If it is one of several and the scores are not among it.
        """
        if len(self._tiles) == 1:
            self._labels[:] = labels_of(sample.pred_sem_seg)
            return
        if "seg_logits" not in sample:
            raise UserError("the network returns no scores of pixels, which --tile needs")
        scores = sample.seg_logits.data.float()
        if len(scores) == 1:  # mmseg has made a probability of it
            scores = scores.logit(eps=1e-7)
        for cell in self._cells(tile):
            top, bottom, left, right = cell
            rows = slice(top - tile.y.start, bottom - tile.y.start)
            columns = slice(left - tile.x.start, right - tile.x.start)
            total = scores[:, rows, columns]
            if cell in self._sums:
                total = self._sums.pop(cell).to(total.device) + total
            self._missing[cell] -= 1
            if self._missing[cell]:
                # A copy, which does not keep the tile's other scores, and not on the GPU.
                self._sums[cell] = torch.empty(total.shape, dtype=total.dtype).copy_(total)
            else:
                self._labels[top:bottom, left:right] = self._best(total / self._covered[cell])

    def result(self) -> Segmentation:
        """Return the label map."""
        return Segmentation(self._labels, self._model.class_names, self._model.palette)

    def _best(self, scores: Tensor) -> np.ndarray:
        if len(scores) > 1:
            return scores.argmax(dim=0).cpu().numpy()
        return (scores[0].sigmoid() > self._model.network.decode_head.threshold).cpu().numpy()

    def _cells(self, tile: Tile) -> Iterator[Cell]:
        """Yield the parts of a tile within which each pixel has the same tiles."""
        rows, columns = _between(self._rows, tile.y), _between(self._columns, tile.x)
        return ((*vertical, *horizontal) for vertical, horizontal in product(rows, columns))


def _edges(spans: Sequence[Span]) -> list[int]:
    return sorted({edge for span in spans for edge in span})


def _between(edges: Sequence[int], span: Span) -> Iterator[tuple[int, int]]:
    return pairwise([edge for edge in edges if span.start <= edge <= span.stop])
