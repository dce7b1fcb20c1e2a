"""What mm's data samples hold, predicted or annotated, as results."""

from __future__ import annotations

from typing import Any

import numpy as np

from pvt_mm.results.kinds import Colour, Detection
from pvt_mm.results.masks import box_of, encode

__all__ = ["labels_of", "objects_of"]


def objects_of(
    instances: Any,
    class_names: tuple[str, ...],
    palette: tuple[Colour, ...],
    size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
    score_thr: float = 0.0,
) -> Detection:
    """Return the objects of an image, or of a part of it, in pixels of the image.

    Args:
        instances: mm's InstanceData; those of annotations have no scores.
        class_names: The classes.
        palette: Their colours.
        size: ``(H, W)`` of the image.
        corner: x and y of the part's upper left corner.
        score_thr: Objects of a lower score are left out.

    Returns:
        The objects, best first; their scores are NaN if they have none.
    """
    found = instances.cpu()
    if "scores" in found:
        found = found[found.scores >= score_thr]
        found = found[found.scores.argsort(descending=True, stable=True)]
        scores = found.scores.float().numpy()
    else:
        scores = np.full(len(found), np.nan, np.float32)
    left, top = corner
    boxes = getattr(found.bboxes, "tensor", found.bboxes).float().numpy()
    boxes, masks = boxes + np.array([left, top, left, top], np.float32), None
    if "masks" in found:
        pixels = found.masks.to_ndarray() if hasattr(found.masks, "to_ndarray") else found.masks
        masks = tuple(encode(np.asarray(mask), size, left, top) for mask in pixels)
        if masks and not boxes.any():  # some networks predict masks only
            boxes = np.stack([box_of(mask) for mask in masks])
    labels = found.labels.numpy().astype(np.int64)
    return Detection(boxes, scores, labels, masks, class_names, palette)


def labels_of(pixels: Any) -> np.ndarray:
    """Return the labels ``(H, W)`` of mm's PixelData."""
    return pixels.data[0].cpu().numpy()
