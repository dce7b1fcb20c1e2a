"""Whether what is validated on is another part of the same thing as what is trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from pvt_mm.data.checks import Finding
from pvt_mm.data.dataset_sources import Source
from pvt_mm.data.targets import Targets, initialise
from pvt_mm.wording import some

__all__ = ["check_splits"]

Read = tuple[Source, Targets | None]


def check_splits(
    train: Sequence[Read], other: Sequence[Read], limit: int | None = None
) -> Iterator[Finding]:
    """Compare the data sets of a split with those of the training.

    Args:
        train: What is trained on, with what some samples hold.
        other: What is evaluated on.
        limit: How many of its images to look for in the training, evenly spread; all by default.

    Yields:
        What they share, and what only the second has.
    """
    train = [read for read in train if initialise(read[0].dataset)]
    other = [read for read in other if initialise(read[0].dataset)]
    if not train or not other:
        return
    name = other[0][0].name
    unseen = _classes(other, some_samples=True) - _classes(train, some_samples=False)
    if unseen:
        names = some(sorted(unseen), 5)
        yield Finding("split-class", f"has {names}, of which the training set has none", name)
    paths = [path for source, _ in other for path in _paths(source)]
    step = len(paths) / min(limit or len(paths), len(paths)) if paths else 1
    chosen = [paths[int(index * step)] for index in range(int(len(paths) / step))]
    twins = _twins(chosen, (path for source, _ in train for path in _paths(source)))
    if twins:
        mine, theirs = next(iter(twins.items()))
        found = f"{len(twins)} of {len(chosen)} images are trained on, too"
        found += f": {mine}" + (f" is {theirs}" if theirs != mine else "")
        yield Finding("split-shared", found, name)


def _paths(source: Source) -> Iterator[str]:
    for index in range(len(source.dataset)):
        path = source.dataset.get_data_info(index).get("img_path")
        if isinstance(path, str):
            yield path


def _classes(reads: Sequence[Read], some_samples: bool) -> set[str]:
    """Name the classes that occur.

    Args:
        reads: Data sets of a split.
        some_samples: Whether those of some samples will do; otherwise, of a set of label maps that
            is not read whole, all classes may occur.
    """
    found: set[str] = set()
    for source, targets in reads:
        names = source.classes
        if source.reads_coco:
            dataset = source.dataset
            for index in range(len(dataset)):
                for instance in dataset.get_data_info(index).get("instances", ()):
                    if not instance.get("ignore_flag"):
                        found.add(names[instance["bbox_label"]])
        elif targets is not None and (some_samples or len(targets.infos) == targets.total):
            found |= {name for name, count in zip(names, targets.pixels, strict=False) if count}
        elif not some_samples:
            found |= set(names)
    return found


def _twins(paths: Sequence[str], others: Iterator[str]) -> dict[str, str]:
    """Find files of the same content: each path with another, or with itself if it is both."""
    by_size: dict[int, list[str]] = {}
    for path in paths:
        if (size := _size(path)) is not None:
            by_size.setdefault(size, []).append(path)
    digest = cache(_digest)
    twins: dict[str, str] = {}
    for other in others:
        # Files of another size are not read: that takes no time even for large data sets.
        for path in by_size.get(_size(other), ()):
            if path not in twins and (path == other or digest(path) == digest(other)):
                twins[path] = other
    return twins


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:  # elsewhere, or named as missing by another check
        return None


def _digest(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes()).digest()
