"""What is found in an image, in numpy arrays and pixels of the image as it was given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pvt_mm.results.masks import Mask, decode

__all__ = ["Colour", "Detection", "Segmentation", "area"]

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Detection:
    """The objects that a detector finds in an image, best first.

    Attributes:
        boxes: ``(N, 4)`` float32: x1, y1, x2, y2 in pixels.
        scores: ``(N,)`` float32, from 0 to 1; NaN for annotated objects.
        labels: ``(N,)`` int64, indices of ``class_names``.
        masks: The objects' masks as COCO's run-length codes, or None if it predicts none.
        class_names: The classes that the detector knows.
        palette: A colour (red, green, blue) for each class.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[Mask, ...] | None
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, indices: np.ndarray) -> Detection:
        """Return the objects of some indices, in their order."""
        masks = None if self.masks is None else tuple(self.masks[i] for i in indices)
        picked = (self.boxes[indices], self.scores[indices], self.labels[indices])
        return Detection(*picked, masks, self.class_names, self.palette)

    def mask(self, index: int) -> np.ndarray:
        """Return an object's mask, a bool array of the image's height and width.

        Raises:
            ValueError: If the detector predicts no masks.
        """
        if self.masks is None:
            raise ValueError("this detector predicts no masks")
        return decode(self.masks[index])

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Draw boxes, masks, names and scores on a copy of the image.

        Args:
            image: ``(H, W, 3)`` uint8, BGR: the image that was given.

        Returns:
            The picture; a whole number of times as large if the image is smaller than a thumbnail.
        """
        from pvt_mm.results.drawing import draw_detection

        return draw_detection(image, self)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of each pixel of an image.

    Attributes:
        labels: ``(H, W)``, indices of ``class_names``; uint8, or uint16 for more than 256 classes.
            Of annotations, larger ones are pixels without a class.
        class_names: The classes that the segmentor knows.
        palette: A colour (red, green, blue) for each class.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...] = field(repr=False)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Tint a copy of the image by class, and name the classes; see :meth:`Detection.draw`."""
        from pvt_mm.results.drawing import draw_segmentation

        return draw_segmentation(image, self)


def area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of boxes ``(..., 4)`` in square pixels; 0 for what is no box."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]
