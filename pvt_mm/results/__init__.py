"""What is found in an image, or is true of it, and pictures of that."""

from pvt_mm.results.from_mm import draw_sample, labels_of, objects_of
from pvt_mm.results.kinds import Colour, Detection, Segmentation, area
from pvt_mm.results.masks import Mask, box_of, decode, encode, resize
from pvt_mm.results.palette import palette_of

__all__ = [
    "Colour",
    "Detection",
    "Mask",
    "Segmentation",
    "area",
    "box_of",
    "decode",
    "draw_sample",
    "encode",
    "labels_of",
    "objects_of",
    "palette_of",
    "resize",
]
