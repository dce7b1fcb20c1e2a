"""Results drawn on images.

mm's visualizers cut off the labels at the image's border, want all masks of an image as one array
and take a second for a video frame; here a mask costs its box, and labels stay inside.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_masks

from pvt_mm.results.kinds import Colour, Detection, Segmentation

__all__ = ["draw_detection", "draw_segmentation"]

LEGIBLE = 320  # pixels; pictures whose longer side is shorter are enlarged
ENLARGED = 512  # to at least that
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
MASK_OPACITY = 0.45
LABEL_OPACITY = 0.55
SMALL_REGION = 0.002  # share of the image's pixels below which a region is not named

Box = tuple[int, int, int, int]


def draw_detection(image: np.ndarray, found: Detection) -> np.ndarray:
    """Draw objects on a copy of an image; see :meth:`Detection.draw`."""
    scale = _scale(image)
    canvas = _zoomed(image, scale)
    width = max(2, round(max(canvas.shape[:2]) / 500))
    order = range(len(found) - 1, -1, -1)  # the best on top
    for index in order:
        colour = _bgr(found.palette[found.labels[index]])
        if found.masks is not None:
            _tint(canvas, coco_masks.decode(found.masks[index]), colour, scale)
        x1, y1, x2, y2 = (int(round(float(value) * scale)) for value in found.boxes[index])
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, width)
    writer = _Labels(canvas)
    for index in range(len(found)):  # the best have the best places
        label = found.labels[index]
        score = found.scores[index]
        text = found.class_names[label] + ("" if np.isnan(score) else f" {score:.2f}")
        x1, y1, _, y2 = (int(round(float(value) * scale)) for value in found.boxes[index])
        writer.add(text, [(x1, y1, 0, up) for up in (-1, 0, 1, -2, 2, -3)], found.palette[label])
    return writer.picture()


def draw_segmentation(image: np.ndarray, found: Segmentation) -> np.ndarray:
    """Tint a copy of an image by class; see :meth:`Segmentation.draw`."""
    scale = _scale(image)
    colours = np.array([_bgr(colour) for colour in found.palette], np.uint8)
    known = found.labels < len(colours)  # others are ignored
    layer = colours[np.where(known, found.labels, 0)]
    tinted = cv2.addWeighted(image, 1 - LABEL_OPACITY, layer, LABEL_OPACITY, 0, dtype=cv2.CV_8U)
    tinted = np.where(known[..., None], tinted, image)
    writer = _Labels(_zoomed(tinted, scale))
    places = []
    for label in np.unique(found.labels[known]):
        x, y, size = _middle(found.labels == label)
        if size >= SMALL_REGION * found.labels.size:
            places.append((size, x, y, label))
    for _, x, y, label in sorted(places, reverse=True):
        x, y = round((x + 0.5) * scale), round((y + 0.5) * scale)
        anchors = [(x, y, -0.5, up) for up in (-0.5, -1.5, 0.5, -2.5, 1.5)]
        writer.add(found.class_names[label], anchors, found.palette[label])
    return writer.picture()


class _Labels:
    """Writes labels on a picture, inside its borders and none over another."""

    def __init__(self, canvas: np.ndarray) -> None:
        self.height, self.width = canvas.shape[:2]
        self.image = Image.fromarray(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB))
        self.pen = ImageDraw.Draw(self.image)
        size = int(np.clip(max(canvas.shape[:2]) / 50, 13, 32))
        self.font = ImageFont.truetype(str(FONT), size)
        self.taken: list[Box] = []

    def add(self, text: str, anchors: list[tuple[int, int, float, float]], colour: Colour) -> None:
        """Write a text on its colour, at the first anchor where there is room; or leave it out.

        Args:
            text: What to write.
            anchors: Points ``(x, y)`` with the shift from there to the label's upper left corner,
                in widths and heights of the label.
            colour: Its background.
        """
        pad = 2
        text = self._shortened(text, self.width - 2 * pad)
        ascent, descent = self.font.getmetrics()
        wide, high = ceil(self.font.getlength(text)) + 2 * pad, ascent + descent + pad
        boxes = []
        for x, y, shift_x, shift_y in anchors:
            left = int(np.clip(x + shift_x * wide, 0, max(self.width - wide, 0)))
            top = int(np.clip(y + shift_y * high, 0, max(self.height - high, 0)))
            boxes.append((left, top, left + wide, top + high))
        box = next((box for box in boxes if not self._hides(box)), None)
        if box is None:
            return
        self.taken.append(box)
        self.pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour)
        self.pen.text((box[0] + pad, box[1] + pad // 2), text, _ink(colour), self.font)

    def picture(self) -> np.ndarray:
        """Return the picture, BGR."""
        return cv2.cvtColor(np.asarray(self.image), cv2.COLOR_RGB2BGR)

    def _shortened(self, text: str, width: int) -> str:
        shown = text
        while self.font.getlength(shown) > width and len(text) > 1:
            text = text[:-1]
            shown = text + "\N{HORIZONTAL ELLIPSIS}"
        return shown

    def _hides(self, box: Box) -> bool:
        return any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
            for other in self.taken
        )


def _scale(image: np.ndarray) -> int:
    longer = max(image.shape[:2])
    return ceil(ENLARGED / longer) if longer < LEGIBLE else 1


def _zoomed(image: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return image.copy()
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def _tint(canvas: np.ndarray, mask: np.ndarray, colour: Colour, scale: int) -> None:
    """Tint a mask and draw its outline, in place."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return
    rows, columns = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    inside = np.kron(mask[rows, columns], np.ones((scale, scale), np.uint8))
    part = canvas[
        rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale
    ]
    tinted = (1 - MASK_OPACITY) * part + MASK_OPACITY * np.array(colour)
    np.copyto(part, tinted.astype(np.uint8), where=inside[..., None].astype(bool))
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(
        canvas, contours, -1, colour, 1, offset=(int(xs[0]) * scale, int(ys[0]) * scale)
    )


def _middle(region: np.ndarray) -> tuple[int, int, int]:
    """Return the point deepest inside a region's largest part, and that part's pixels."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=4)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height, size = (int(value) for value in stats[largest])
    part = np.pad(parts[y : y + height, x : x + width] == largest, 1).astype(np.uint8)
    depth = cv2.distanceTransform(part, cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return x + int(column) - 1, y + int(row) - 1, size


def _bgr(colour: Colour) -> Colour:
    return colour[::-1]


def _ink(colour: Colour) -> Colour:
    """Black on what is light, white on what is dark."""
    luminance = np.dot(colour, (0.299, 0.587, 0.114))
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)
