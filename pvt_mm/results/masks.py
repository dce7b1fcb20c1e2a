"""Masks of objects as COCO's run-length codes: a large image's take no more than their outline."""

from __future__ import annotations

from typing import TypedDict

import cv2
import numpy as np
from pycocotools import mask as coco_masks

__all__ = ["Mask", "box_of", "decode", "encode", "resize"]


class Mask(TypedDict):
    """COCO's compressed run-length code of a mask.

    Attributes:
        size: Height and width of the image, in pixels.
        counts: The runs.
    """

    size: list[int]
    counts: bytes


def encode(mask: np.ndarray, size: tuple[int, int], left: int = 0, top: int = 0) -> Mask:
    """Encode a mask that lies somewhere in an image; the image's own size is never allocated.

    Args:
        mask: ``(h, w)``, zero outside the object.
        size: ``(H, W)`` of the image, in pixels.
        left: Where the mask begins in the image.
        top: The same, vertically.
    """
    height, width = size
    # The runs of each column: where a pixel differs from the one above.
    padded = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    padded[:, 1:-1] = mask.T != 0
    steps = np.diff(padded, axis=1)
    column, row = np.nonzero(steps == 1)
    starts = (column + left) * height + row + top
    column, row = np.nonzero(steps == -1)
    stops = (column + left) * height + row + top
    # A run that ends at the bottom of a column may go on at the top of the next.
    apart = starts[1:] != stops[:-1]
    starts = starts[np.r_[True, apart]] if len(starts) else starts
    stops = stops[np.r_[apart, True]] if len(stops) else stops
    edges = np.r_[0, np.c_[starts, stops].ravel(), height * width]
    runs = {"size": [height, width], "counts": np.diff(edges).tolist()}
    return coco_masks.frPyObjects(runs, height, width)


def decode(mask: Mask) -> np.ndarray:
    """Return the mask as a bool array ``(H, W)``."""
    return coco_masks.decode(mask).astype(bool)


def box_of(mask: Mask) -> np.ndarray:
    """Return the box around a mask, ``(4,)`` as x1, y1, x2, y2 in pixels."""
    x, y, width, height = coco_masks.toBbox(mask)
    return np.array([x, y, x + width, y + height], np.float32)


def resize(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask with the image that it belongs to, to ``(H, W)``."""
    pixels = coco_masks.decode(mask)
    return encode(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_NEAREST), size)
