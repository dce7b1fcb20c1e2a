"""Checks of a label map, read as mmsegmentation reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pvt_mm.data.checks.images import decode

__all__ = ["IGNORED", "LabelReader", "check_label_map"]

IGNORED = 255


@dataclass(frozen=True)
class LabelReader:
    """How a data set's pipeline reads label maps.

    Args:
        num_classes: Of the data set.
        reduce_zero_label: Whether 0 is ignored and classes count from 1.
        label_map: New class numbers by old ones, where a data set uses other classes.
        backend: mmcv's backend.
    """

    num_classes: int
    reduce_zero_label: bool = False
    label_map: tuple[tuple[int, int], ...] = ()
    backend: str | None = "pillow"

    def classes(self) -> np.ndarray:
        """The class number of each of the 256 values in a file, as mmsegmentation computes it."""
        table = np.arange(256)
        if self.reduce_zero_label:
            table = np.where((table == 0) | (table == IGNORED), IGNORED, table - 1)
        before = table.copy()
        for old, new in self.label_map:
            table[before == old] = new
        return table


def check_label_map(
    path: str | Path, reader: LabelReader, image_size: tuple[int, int] | None
) -> list[tuple[str, str]]:
    """Check a label map.

    Args:
        path: The file.
        reader: How it is read.
        image_size: Width and height of its image, if that can be read.

    Returns:
        The kind of each fault and what was found.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        return [("label-missing", getattr(error, "strerror", None) or str(error))]
    labels = decode(data, "unchanged", reader.backend)
    if isinstance(labels, str):
        return [("label-broken", labels)]
    if labels.ndim == 3 and labels.shape[2] == 1:
        labels = labels[..., 0]
    if labels.ndim != 2:
        return [("label-colour", f"{labels.shape[2]} channels")]
    size = labels.shape[1], labels.shape[0]
    faults = []
    if image_size and size != image_size:
        found = f"{size[0]} x {size[1]}, image {image_size[0]} x {image_size[1]}"
        faults.append(("label-size", found))
    return faults + _check_values(labels, reader)


def _check_values(labels: np.ndarray, reader: LabelReader) -> list[tuple[str, str]]:
    if labels.dtype.kind not in "bui":
        return [("label-value", f"numbers of type {labels.dtype}")]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 255:
        return [("label-value", f"values from {low} to {high}, of which 8 bits would be kept")]
    counts = np.bincount(labels.ravel().astype(np.uint8), minlength=256)
    classes = reader.classes()
    wrong = np.flatnonzero((counts > 0) & (classes != IGNORED) & (classes >= reader.num_classes))
    if wrong.size:
        shown = ", ".join(f"{value} ({counts[value]} pixels)" for value in wrong[:5])
        rule = "with" if reader.reduce_zero_label else "without"
        found = f"{shown}; {reader.num_classes} classes {rule} reduce_zero_label"
        return [("label-value", f"values {found}")]
    if not counts[classes != IGNORED].any():
        return [("label-ignored", "every pixel is ignored")]
    return []
