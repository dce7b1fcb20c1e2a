"""What mm's data samples hold, predicted or annotated, as results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pvt_mm.results.kinds import Colour, Detection, Segmentation
from pvt_mm.results.masks import box_of, encode
from pvt_mm.results.palette import palette_of

__all__ = ["draw_sample", "labels_of", "objects_of"]


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


def draw_sample(
    image: np.ndarray,
    sample: Any,
    meta: Mapping[str, Any],
    kind: str = "gt",
    score_thr: float = 0.0,
) -> np.ndarray | None:
    """Draw what a data sample of mm's holds on a copy of its image.

    Args:
        image: ``(H, W, 3)``, BGR.
        sample: A sample of a detector or a segmentor.
        meta: The data set's ``classes`` and ``palette``.
        kind: 'gt' for what is annotated, 'pred' for what is predicted.
        score_thr: Objects of a lower score are left out.

    Returns:
        The picture, BGR, enlarged if it is small; None if the sample holds nothing of the kind,
        or a label map of another size than the image.
    """
    names = tuple(meta.get("classes") or ())
    palette = palette_of(meta.get("palette"), len(names))
    pixels, instances = sample.get(f"{kind}_sem_seg"), sample.get(f"{kind}_instances")
    if pixels is not None and "data" in pixels:
        labels = labels_of(pixels)
        if labels.shape != image.shape[:2]:
            return None
        return Segmentation(labels, names, palette).draw(image)
    if instances is not None and "bboxes" in instances:
        found = objects_of(instances, names, palette, image.shape[:2], score_thr=score_thr)
        return found.draw(image)
    return None
