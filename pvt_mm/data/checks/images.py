"""Checks of an image file, read as the pipeline of a data set reads it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["ImageReader", "check_image", "decode"]

TINY = 8  # pixels a side
LARGE = 64 * 2**20  # pixels
ORIENTATION = 0x112  # the EXIF tag
# What a file ends with if nothing is missing. Some have more after it.
ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82"}

Fault = tuple[str, str]


@dataclass(frozen=True)
class ImageReader:
    """How a data set's pipeline reads images.

    Args:
        color_type: mmcv's flag.
        backend: mmcv's backend.
        annotated: Whether boxes or labels belong to places in the image.
        max_ratio: Of the longer to the shorter side, beyond which the pipeline's resizing leaves
            less than a pixel; None if it is not known.
    """

    color_type: str = "color"
    backend: str | None = "cv2"
    annotated: bool = True
    max_ratio: float | None = None

    @property
    def turns(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        return self.color_type in ("color", "grayscale") and self.backend in (None, "cv2", "pillow")


def decode(data: bytes, color_type: str, backend: str | None) -> np.ndarray | str:
    """Decode an image as mmcv does.

    Returns:
        The image, ``(H, W)`` or ``(H, W, C)``, or why it cannot be decoded.
    """
    import mmcv

    if not data:
        return "the file is empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = mmcv.imfrombytes(data, flag=color_type, backend=backend)
    except Exception as error:  # each library has its own
        return f"cannot be decoded ({' '.join(str(error).split())})"
    if image is None:
        start = "" if data[:1] in b"\xff\x89GRIB" else f", which starts with {data[:12]!r}"
        return f"cannot be decoded: {len(data)} bytes{start}"
    return image


def check_image(
    path: str | Path, reader: ImageReader, listed: tuple[int, int] | None = None
) -> tuple[tuple[int, int] | None, list[Fault]]:
    """Check an image file.

    Args:
        path: The file.
        reader: How it is read.
        listed: Width and height in the annotation file, if there is one.

    Returns:
        Width and height as it is read, None if it cannot be, and each fault's kind and what was
        found.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        return None, [("image-missing", getattr(error, "strerror", None) or str(error))]
    image = decode(data, reader.color_type, reader.backend)
    if isinstance(image, str):
        return None, [("image-broken", image)]
    size = image.shape[1], image.shape[0]
    faults = list(_check_content(data, size, reader, listed))
    if min(size) < TINY:
        faults.append(("image-tiny", f"{size[0]} x {size[1]}"))
    if reader.max_ratio and max(size) > reader.max_ratio * min(size):
        faults.append(("image-narrow", f"{size[0]} x {size[1]}"))
    if size[0] * size[1] > LARGE:
        faults.append(("image-large", f"{size[0]} x {size[1]}"))
    if listed and size != listed and "image-rotated" not in dict(faults):
        found = f"{size[0]} x {size[1]}, but {listed[0]} x {listed[1]} in the annotation file"
        faults.append(("image-size", found))
    return size, faults


def _check_content(
    data: bytes, size: tuple[int, int], reader: ImageReader, listed: tuple[int, int] | None
) -> Iterator[Fault]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(io.BytesIO(data))
        except Exception:  # Pillow does not read it, which is no fault
            return
        end = next((end for start, end in ENDS.items() if data.startswith(start)), b"")
        if end not in data[-64:]:
            try:
                picture.load()
            except Exception as error:
                yield "image-broken", f"is decoded in part only ({error})"
                return
        if data[:4] == b"\x89PNG" and data[24] > 8 or picture.mode[0] in "IF":
            yield "image-depth", f"more than 8 bits a channel (mode {picture.mode})"
        if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
            yield "image-alpha", f"transparency (mode {picture.mode})"
        if picture.mode in ("CMYK", "YCCK"):
            yield "image-cmyk", f"mode {picture.mode}"
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # a camera's JPEG with a preview
            yield "image-frames", f"{frames} frames ({picture.format})"
        if reader.annotated and reader.turns:
            yield from _check_orientation(picture, size, listed)


def _check_orientation(
    picture: Image.Image, size: tuple[int, int], listed: tuple[int, int] | None
) -> Iterator[Fault]:
    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block is not read by mmcv either
        return
    if orientation not in range(2, 9):
        return
    found = f"EXIF orientation {orientation}"
    turned = size == picture.size[::-1] != picture.size
    if turned and listed == picture.size:
        raw = f"{listed[0]} x {listed[1]}"
        yield "image-rotated", f"{found}: read as {size[0]} x {size[1]}, annotated as {raw}"
    elif not (turned and listed == size):
        yield "image-exif", found
