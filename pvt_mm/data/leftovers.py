"""Files beside a data set that it does not use, though they look like part of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pvt_mm.data.checks import Finding
from pvt_mm.data.dataset_sources import Source
from pvt_mm.wording import some

__all__ = ["find_leftovers"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_leftovers(source: Source) -> Iterator[Finding]:
    """Find images of another suffix, and label maps without an image.

    Args:
        source: A data set that reads folders; of one that has a list of its images, nothing is
            found.

    Yields:
        A finding for images, and one for label maps.
    """
    dataset = source.dataset
    suffix, images = getattr(dataset, "img_suffix", None), dataset.data_prefix.get("img_path")
    if not suffix or not images or (dataset.ann_file and not Path(dataset.ann_file).is_dir()):
        return
    files = _files(images)
    stems = {name.removesuffix(suffix) for name in files if name.endswith(suffix)}
    left = [
        name
        for name in files
        if not name.endswith(suffix) and os.path.splitext(name)[1].lower() in SUFFIXES
    ]
    # A label map in the same folder is no image.
    labels, end = dataset.data_prefix.get("seg_map_path"), getattr(dataset, "seg_map_suffix", "")
    if labels and os.path.realpath(labels) == os.path.realpath(images):
        left = [name for name in left if not name.endswith(end)]
    if left:
        kinds = Counter(os.path.splitext(name)[1] for name in left)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        found = f"{len(left)} images are not used ({counts}), for img_suffix is {suffix!r}: "
        yield Finding("image-left-out", found + some(left), images)
    if not labels or not end:
        return
    known = stems | {os.path.splitext(name)[0] for name in left}
    alone = [
        name
        for name in _files(labels)
        if name.endswith(end) and name.removesuffix(end) not in known
    ]
    if alone and os.path.realpath(labels) != os.path.realpath(images):
        found = f"{len(alone)} label maps have no image: {some(alone)}"
        yield Finding("label-left-over", found, labels)


def _files(folder: str) -> list[str]:
    """List the files of a folder and those below it, as paths in it."""
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
