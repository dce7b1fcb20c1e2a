"""Checks of single entries of a COCO annotation file: images, categories, annotations."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from pvt_mm.data.checks.findings import quote
from pvt_mm.data.checks.kinds import ERROR
from pvt_mm.data.checks.masks import check_mask, is_number

__all__ = ["check_annotation", "check_category", "check_image_entry", "is_id", "is_learnt"]

MISSING = object()
# Boxes of COCO itself reach this many pixels out of the image, by rounding.
OUTSIDE = 2

Fault = tuple[str, str]


def is_id(value: Any) -> bool:
    """Whether it is a whole number that mmdet and COCO's evaluation keep exactly."""
    # COCO's evaluation keeps ids in arrays of 64-bit floats.
    return type(value) is int and abs(value) < 2**53


def is_learnt(entry: Mapping) -> bool:
    """Whether training learns from an annotation, by mmdet's rules: no crowd, not empty."""
    box, area = entry.get("bbox"), entry.get("area", 0)
    if entry.get("ignore") or entry.get("iscrowd") or not is_number(area) or area <= 0:
        return False
    if type(box) is not list or len(box) != 4 or not all(map(is_number, box)):
        return False
    return box[2] >= 1 and box[3] >= 1


def _wrong(entry: Mapping, field: str) -> str:
    value = entry.get(field, MISSING)
    return f"no {field}" if value is MISSING else f"{field} is {quote(value)}"


def check_image_entry(entry: Any) -> Iterator[Fault]:
    """Check an item of ``images``; yields the kind of a fault and what was found."""
    if type(entry) is not dict:
        yield "image-entry", f"an entry is {quote(entry)}"
        return
    if not is_id(entry.get("id")):
        yield "image-entry", _wrong(entry, "id")
    name = entry.get("file_name")
    if type(name) is not str or not name or "\0" in name:
        yield "image-entry", _wrong(entry, "file_name")
    for field in ("width", "height"):
        side = entry.get(field)
        # A float is no harm where it is whole: mmdet compares it only.
        if not is_number(side) or side < 1 or side != int(side):
            yield "image-entry", _wrong(entry, field)


def check_category(entry: Any) -> Iterator[Fault]:
    """Check an item of ``categories``; yields the kind of a fault and what was found."""
    if type(entry) is not dict:
        yield "category-entry", f"an entry is {quote(entry)}"
        return
    if not is_id(entry.get("id")):
        yield "category-entry", _wrong(entry, "id")
    if type(entry.get("name")) is not str:
        yield "category-entry", _wrong(entry, "name")


def check_annotation(
    entry: dict, width: int, height: int, masks: bool, evaluation: bool
) -> Iterator[tuple[str, str, str]]:
    """Check what an annotation says of its object, whose image is known.

    Args:
        entry: An item of ``annotations``.
        width: Of its image, in pixels.
        height: Of its image, in pixels.
        masks: Whether the model is trained on masks.
        evaluation: Whether the data set is evaluated on, not trained on.

    Yields:
        The kind of a fault, what was found, and a level if it is not the kind's.
    """
    crowd = entry.get("iscrowd", MISSING)
    if crowd not in (0, 1) and (evaluation or crowd is not MISSING):
        yield "crowd-flag", _wrong(entry, "iscrowd"), ""
    if entry.get("ignore"):
        return
    for kind, found in _check_box(entry, width, height):
        yield kind, found, ""
    area = entry.get("area", MISSING)
    if not is_number(area):
        yield "area", _wrong(entry, "area"), ""
    elif area <= 0:
        yield "area-zero", f"area is {quote(area)}", ""
    if masks:
        segmentation = entry.get("segmentation")
        if not segmentation:
            yield "mask-missing", _wrong(entry, "segmentation"), ""
        else:
            for kind, found in check_mask(segmentation, height, width):
                # Training leaves such a part out, pycocotools' evaluation fails on it.
                fatal = evaluation and kind == "polygon-short"
                yield kind, found, ERROR if fatal else ""


def _check_box(entry: dict, width: int, height: int) -> Iterator[Fault]:
    box = entry.get("bbox", MISSING)
    if type(box) is not list or len(box) != 4 or not all(map(is_number, box)):
        yield "box", _wrong(entry, "bbox")
        return
    x, y, w, h = box
    right, bottom = x + w, y + h
    if not (isfinite(right) and isfinite(bottom)):
        yield "box", _wrong(entry, "bbox")
    elif w < 1 or h < 1:
        yield "box-empty", _wrong(entry, "bbox")
    elif x >= width or y >= height or right <= 0 or bottom <= 0:
        yield "box-outside", f"{_wrong(entry, 'bbox')}, image {width} x {height}"
    elif min(x, y) < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
        yield "box-cut", f"{_wrong(entry, 'bbox')}, image {width} x {height}"
