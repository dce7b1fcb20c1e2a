"""Checks of data sets: annotation files, images, label maps."""

from .coco import CocoFile, ImageEntry, check_coco
from .findings import Finding, Findings
from .images import ImageReader, check_image
from .kinds import ERROR, KINDS, PER_SAMPLE, WARNING
from .label_maps import IGNORED, LabelReader, check_label_map
from .masks import check_mask

__all__ = [
    "ERROR",
    "IGNORED",
    "KINDS",
    "PER_SAMPLE",
    "WARNING",
    "CocoFile",
    "Finding",
    "Findings",
    "ImageEntry",
    "ImageReader",
    "LabelReader",
    "check_coco",
    "check_image",
    "check_label_map",
    "check_mask",
]
