"""What mm's networks return, as results."""

from __future__ import annotations

import numpy as np
from mmengine.structures import BaseDataElement

from pvt_mm.errors import UserError
from pvt_mm.inference.masks import box_of, encode
from pvt_mm.inference.results import Colour, Detection
from pvt_mm.inference.tiles import Tile

__all__ = ["detection", "segmentation"]


def detection(
    sample: BaseDataElement,
    class_names: tuple[str, ...],
    palette: tuple[Colour, ...],
    tile: Tile,
    size: tuple[int, int],
    score_thr: float,
) -> Detection:
    """Return the objects of an image or of one of its tiles, in pixels of the image.

    Args:
        sample: What a detector returns for the tile.
        class_names: The classes that it knows.
        palette: Their colours.
        tile: The tile's place.
        size: ``(H, W)`` of the image.
        score_thr: Objects of a lower score are left out.

    Raises:
        UserError: If the network is not one that finds objects.
    """
    if "pred_instances" not in sample:
        raise UserError("the network predicts no objects with boxes or masks of their own")
    found = sample.pred_instances.cpu()
    found = found[found.scores >= score_thr]
    found = found[found.scores.argsort(descending=True, stable=True)]
    left, top = tile.x.start, tile.y.start
    boxes, masks = found.bboxes.float().numpy(), None
    boxes = boxes + np.array([left, top, left, top], np.float32)
    if "masks" in found:
        masks = tuple(encode(np.asarray(mask), size, left, top) for mask in found.masks)
        if masks and not found.bboxes.any():  # some networks predict masks only
            boxes = np.stack([box_of(mask) for mask in masks])
    labels = found.labels.numpy().astype(np.int64)
    return Detection(boxes, found.scores.float().numpy(), labels, masks, class_names, palette)


def segmentation(sample: BaseDataElement) -> np.ndarray:
    """Return the labels ``(H, W)`` that a segmentor gives an image."""
    return sample.pred_sem_seg.data[0].cpu().numpy()
