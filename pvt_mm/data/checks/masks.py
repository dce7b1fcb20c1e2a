"""Checks of an object's mask: polygons and run-length codes.

They come before pycocotools: its C code crashes the process, does not end, or returns memory that
was never written when it is given the wrong numbers.
"""

from collections.abc import Iterator
from itertools import chain
from math import isfinite
from typing import Any

from pvt_mm.data.checks.findings import quote

__all__ = ["check_mask", "is_number"]

_NUMBERS = {int, float}
# Points may lie outside the image by this many times its larger side. Drawing a polygon takes time
# and memory in proportion to its extent.
FAR = 10
MIN_COORDINATES = 6


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits a float, and not a bool."""
    try:
        return type(value) in _NUMBERS and isfinite(value)
    except OverflowError:
        return False


def check_mask(segmentation: Any, height: int, width: int) -> Iterator[tuple[str, str]]:
    """Check a segmentation that is not empty.

    Args:
        segmentation: What the annotation holds.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Yields:
        The kind of a fault and what was found.
    """
    if type(segmentation) is dict:
        yield from _check_rle(segmentation, height, width)
    elif type(segmentation) is not list or not all(type(part) is list for part in segmentation):
        yield "mask", f"segmentation is {quote(segmentation)}"
    else:
        for polygon in segmentation:
            yield from _check_polygon(polygon, height, width)


def _check_polygon(polygon: list, height: int, width: int) -> Iterator[tuple[str, str]]:
    if not set(map(type, polygon)) <= _NUMBERS:
        yield "mask", f"segmentation is [{quote(polygon)}]"
        return
    if len(polygon) < MIN_COORDINATES or len(polygon) % 2:
        yield "polygon-short", f"{len(polygon)} numbers in polygon {quote(polygon)}"
        return
    # The sum finds NaN, which escapes comparisons.
    try:
        finite = isfinite(sum(polygon))
    except OverflowError:
        finite = False
    reach = FAR * max(height, width)
    if not finite or min(polygon) < -reach or max(polygon) > reach + max(height, width):
        wrong = next((v for v in polygon if not (is_number(v) and abs(v) <= reach)), polygon)
        yield "polygon-numbers", f"{quote(wrong)} in polygon {quote(polygon)}"
        return
    xs, ys = polygon[::2], polygon[1::2]
    if min(xs) >= width or min(ys) >= height or max(xs) <= 0 or max(ys) <= 0:
        yield "polygon-outside", f"polygon {quote(polygon)}, image {width} x {height}"


def _check_rle(rle: dict, height: int, width: int) -> Iterator[tuple[str, str]]:
    size, counts = rle.get("size"), rle.get("counts")
    if type(counts) not in (list, str):
        yield "mask", f"segmentation is {quote(rle)}"
    elif size != [height, width] or set(map(type, size)) != {int}:
        yield "rle-size", f"size {quote(size)}, image {height} high, {width} wide"
    elif (total := _total(counts)) != height * width:
        found = "are malformed" if total is None else f"add up to {total}, not {height * width}"
        yield "rle-counts", f"counts {quote(counts)} {found}"


def _total(counts: list | str) -> int | None:
    """Add up run lengths; None if they are malformed."""
    if type(counts) is str:
        counts = list(_decode(counts))
    if any(type(run) is not int or run < 0 for run in counts):
        return None
    return sum(counts)


def _decode(text: str) -> Iterator[int]:
    """Decode COCO's compressed run lengths; -1 at a fault.

    Each character carries 5 bits, least significant first, and one for 'goes on'; from the fourth
    run on, a run is given as the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for char in chain(text):
        bits = ord(char) - 48
        # 32 bits are all that a run may have.
        if not 0 <= bits < 64 or shift > 30:
            yield -1
            return
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        yield value
        value = shift = 0
    if shift:
        yield -1
