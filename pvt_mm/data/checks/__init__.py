"""Checks of data sets: annotation files, images, label maps."""

from pvt_mm.data.checks.coco import CocoFile, ImageEntry, check_coco
from pvt_mm.data.checks.findings import Finding, Findings
from pvt_mm.data.checks.images import ImageReader, check_image
from pvt_mm.data.checks.kinds import ERROR, KINDS, OF_THE_WHOLE, PER_SAMPLE, WARNING
from pvt_mm.data.checks.label_maps import IGNORED, LabelReader, check_label_map
from pvt_mm.data.checks.masks import check_mask

__all__ = [
    "ERROR",
    "IGNORED",
    "KINDS",
    "OF_THE_WHOLE",
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
