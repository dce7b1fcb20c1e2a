"""Checks of many image files, by several processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, NamedTuple

import cv2
from mmengine.utils import ProgressBar

from pvt_mm.data.checks import (
    Finding,
    Findings,
    ImageReader,
    LabelReader,
    check_image,
    check_label_map,
)
from pvt_mm.errors import UserError

__all__ = ["ImageTask", "check_images", "find_faults"]

# Files that a process gets at a time.
CHUNK = 16


class ImageTask(NamedTuple):
    """An image to check.

    Args:
        path: The file.
        listed: Width and height in the annotation file, if there is one.
        image_id: Its id there.
        label_map: The label map's file, if there is one.
    """

    path: str
    listed: tuple[int, int] | None = None
    image_id: Any = None
    label_map: str | None = None


def check_images(
    tasks: Sequence[ImageTask],
    images: ImageReader,
    labels: LabelReader | None,
    workers: int,
    findings: Findings,
) -> None:
    """Check images and label maps, with a progress bar if stderr is a terminal.

    Args:
        tasks: What to check.
        images: How images are read.
        labels: How label maps are read; None if they are not.
        workers: How many processes read; 0 for this one.
        findings: Where faults are added.

    Raises:
        UserError: If one of the processes dies.
    """
    check = partial(_check, images, labels)
    chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    if workers == 0:
        _collect(map(check, chunks), len(tasks), findings)
        return
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
        try:
            _collect(pool.map(check, chunks), len(tasks), findings)
        except BrokenProcessPool as error:
            raise UserError(
                "a process that read images was killed, maybe for lack of memory; use --workers 1"
            ) from error


def _one_thread() -> None:
    cv2.setNumThreads(0)


def _collect(results: Iterable[tuple[int, list[Finding]]], total: int, findings: Findings) -> None:
    # In a file, a line for each step would be in the way.
    progress = ProgressBar(total, file=sys.stderr) if total and sys.stderr.isatty() else None
    for count, found in results:
        findings.extend(found)
        if progress:
            progress.update(count)
    if progress:
        print(file=sys.stderr)


def _check(
    images: ImageReader, labels: LabelReader | None, tasks: Sequence[ImageTask]
) -> tuple[int, list[Finding]]:
    return len(tasks), [found for task in tasks for found in find_faults(task, images, labels)]


def find_faults(
    task: ImageTask, images: ImageReader, labels: LabelReader | None
) -> Iterator[Finding]:
    """Check one image, and its label map if it has one.

    Args:
        task: What to check.
        images: How images are read.
        labels: How label maps are read; None if they are not.
    """
    size, faults = check_image(task.path, images, task.listed)
    for kind, text in faults:
        yield Finding(kind, text, task.path, task.image_id)
    if labels is not None and task.label_map:
        for kind, text in check_label_map(task.label_map, labels, size):
            yield Finding(kind, text, task.label_map)
