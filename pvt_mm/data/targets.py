"""What the loss will see of a data set: labels and boxes as the real pipeline leaves them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from pvt_mm.data.checks import IGNORED, WARNING, Finding, Findings, LabelReader
from pvt_mm.data.checks.images import decode
from pvt_mm.data.dataset_sources import Source
from pvt_mm.data.sample_checks import check_masks, describe
from pvt_mm.wording import some

__all__ = ["Targets", "check_targets", "initialise"]

# Of each data set, evenly spread; of a smaller one all.
SAMPLES = 64
IGNORED_SHARE = 0.3
# Below this many pixels a side, after the resizing, the finest map has at most two cells for it.
TINY = 8
# First classes that are 0 in most label maps.
BACKGROUNDS = ("background", "_background_", "bg", "other", "others", "unlabeled", "unlabelled")


@dataclass
class Targets:
    """What some samples of a data set hold after the pipeline.

    Args:
        total: How many samples the data set has.
        infos: What the data set knows of each sample that was read.
        pixels: How often each of the 256 values is in the label maps; ``(256,)``.
        sides: The longer side of each object's box that is learnt, in pixels.
        crowds: How many objects are ignored.
        failures: Why samples could not be read.
        sizes: Heights and widths after the pipeline, with an image of each.
        channels: The numbers of channels after it, with an image of each.
    """

    total: int = 0
    infos: list[Mapping] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    sides: list[float] = field(default_factory=list)
    crowds: int = 0
    failures: list[str] = field(default_factory=list)
    sizes: dict[tuple[int, int], str] = field(default_factory=dict)
    channels: dict[int, str] = field(default_factory=dict)

    @property
    def read(self) -> str:
        """How many samples these are, in words."""
        count = len(self.infos)
        return f"all {count} samples" if count == self.total else f"{count} of {self.total} samples"


def check_targets(source: Source, findings: Findings) -> Targets | None:
    """Check the labels and boxes that some of a data set's samples have after its pipeline.

    Args:
        source: The data set; of one that is evaluated on, label maps only, for boxes are scored as
            the annotation file has them.
        findings: Where faults are added.

    Returns:
        What the samples hold; None if there are none to read.
    """
    reader = source.label_reader()
    if reader is None and (source.evaluation or not source.reads_coco):
        return None
    targets = _read(source)
    if targets is None:
        return None
    if targets.failures and not targets.infos:
        reason = f"none of {len(targets.failures)} samples gets through: {targets.failures[0]}"
        findings.add(Finding("pipeline", reason, source.name))
        return targets
    if reader is not None and targets.pixels.any():
        for kind, found in _check_pixels(targets, source.classes, reader):
            # An evaluation of it is poor, but no hours are lost.
            level = WARNING if source.evaluation else ""
            findings.add(Finding(kind, found, source.name, level=level))
    if targets.sides:
        tiny = sum(side < TINY for side in targets.sides)
        if 2 * tiny > len(targets.sides):
            found = (
                f"{tiny} of {len(targets.sides)} objects are under {TINY} pixels after the "
                f"resizing, in {targets.read}"
            )
            findings.add(Finding("targets-tiny", found, source.name))
    elif targets.crowds and len(targets.infos) == targets.total:
        found = f"{targets.read} leave no object to learn, {targets.crowds} that are ignored"
        findings.add(Finding("targets-none", found, source.name))
    return targets


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave the generators as they were: a run without a seed is to draw what it drew before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def initialise(dataset: BaseDataset) -> bool:
    """Let a data set read its annotations; returns whether it has any sample."""
    try:
        with redirect_stdout(StringIO()):  # pycocotools says how long it takes
            dataset.full_init()
    except ValueError as error:
        # What numpy says when mmengine packs an empty list; the training words it.
        if "need at least one array to concatenate" not in str(error):
            raise
        return False
    return True


def _read(source: Source) -> Targets | None:
    dataset = source.dataset
    if not initialise(dataset):
        return None
    targets = Targets(total=len(dataset))
    count = min(SAMPLES, targets.total)
    with _same_random_numbers():
        for index in (number * targets.total // count for number in range(count)):
            info = dataset.get_data_info(index)
            try:
                if source.masks:
                    check_masks(info)
                sample = type(dataset).prepare_data(dataset, index)
            except Exception as error:  # whatever a transform raises; the run names each
                targets.failures.append(describe(error))
                continue
            if sample is None:  # mosaics and crops ask for another one
                continue
            targets.infos.append(info)
            _measure(sample, str(info.get("img_path", "")), targets)
            _count(sample, targets)
    return targets


def _measure(sample: Any, path: str, targets: Targets) -> None:
    images = sample.get("inputs") if isinstance(sample, Mapping) else None
    # Test-time augmentation has several views of an image.
    for image in images if isinstance(images, list) else [images]:
        if isinstance(image, torch.Tensor) and image.ndim == 3:
            targets.sizes.setdefault(tuple(image.shape[1:]), path)
            targets.channels.setdefault(image.shape[0], path)


def _count(sample: Any, targets: Targets) -> None:
    truth = sample.get("data_samples") if isinstance(sample, Mapping) else None
    truth = truth[0] if isinstance(truth, list) else truth
    if hasattr(truth, "gt_sem_seg"):
        values = truth.gt_sem_seg.data.flatten().numpy().astype(np.uint8)
        targets.pixels += np.bincount(values, minlength=256)
    boxes = truth.gt_instances.get("bboxes") if hasattr(truth, "gt_instances") else None
    boxes = getattr(boxes, "tensor", boxes)
    if boxes is not None and boxes.ndim == 2 and boxes.shape[1] == 4:
        targets.sides += (boxes[:, 2:] - boxes[:, :2]).amax(1).tolist() if len(boxes) else []
    if hasattr(truth, "ignored_instances"):
        targets.crowds += len(truth.ignored_instances)


def _check_pixels(
    targets: Targets, classes: Sequence[str], reader: LabelReader
) -> Iterator[tuple[str, str]]:
    learnt = targets.pixels[: len(classes)] if classes else targets.pixels[:IGNORED]
    total, seen = targets.pixels.sum(), learnt > 0
    if not seen.all():
        # A crop may have missed them: the files decide.
        raw = _values(targets.infos, reader)
        table = reader.classes()
        seen = seen | np.isin(np.arange(len(seen)), table[raw > 0])
        if reader.reduce_zero_label and seen[:-1].all() and not seen[-1] and raw[0]:
            yield _shift(classes, raw)
            return
        if not seen.any():
            yield "targets-none", f"every pixel of {targets.read} is ignored"
            return
        if len(seen) > 1 and seen.sum() == 1:
            only = classes[int(seen.argmax())] if classes else int(seen.argmax())
            found = (
                f"only {only!r} is in the label maps of {targets.read}; their values are "
                f"{some([str(value) for value in np.flatnonzero(raw)])}"
            )
            if raw[IGNORED]:
                found += f", of which {IGNORED} is ignored"
            yield "targets-one-class", found
            return
        # Among many images, a few that lack a class say nothing.
        if classes and len(targets.infos) == targets.total:
            absent = [name for name, there in zip(classes, seen, strict=True) if not there]
            number = f"{len(absent)} of {len(classes)} classes"
            yield "class-unseen", f"{number} have no pixel in {targets.read}: {some(absent)}"
    if (share := 1 - learnt.sum() / total) > IGNORED_SHARE:
        yield "targets-ignored", f"{share:.0%} of the pixels of {targets.read} are ignored"


def _values(infos: Sequence[Mapping], reader: LabelReader) -> np.ndarray:
    """Count the values in the files of label maps: ``(256,)``."""
    counts = np.zeros(256, np.int64)
    for info in infos:
        path = Path(info["seg_map_path"])
        labels = decode(path.read_bytes(), "unchanged", reader.backend) if path.is_file() else ""
        if not isinstance(labels, str):
            counts += np.bincount(labels.ravel().astype(np.uint8), minlength=256)
    return counts


def _shift(classes: Sequence[str], raw: np.ndarray) -> tuple[str, str]:
    """Word that the last class never occurs where 0 does, with reduce_zero_label."""
    becomes = ", ".join(f"{value + 1} is {name!r}" for value, name in enumerate(classes[:5]))
    more = ", ..." if len(classes) > 5 else ""
    found = (
        f"the label maps hold 0 to {np.flatnonzero(raw[:IGNORED]).max()}, which number "
        f"{len(classes)} classes from 0, but with reduce_zero_label 0 is ignored, {becomes}{more}"
    )
    # Where the first class's name says that it is 0 in the files, there is no doubt.
    sure = str(classes[0]).lower() in BACKGROUNDS
    return "targets-shifted" if sure else "targets-maybe-shifted", found
