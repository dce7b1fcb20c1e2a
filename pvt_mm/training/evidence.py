"""What a metric rests on: said beside it where that is less than one would think."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pvt_mm.registry import HOOKS
from pvt_mm.wording import some

__all__ = ["MARK", "EvidenceHook", "doubts_of_objects", "doubts_of_pixels"]

MARK = "what it rests on: "
# What mmdet reports of boxes and masks, unless a config asks for less.
ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def doubts_of_objects(
    classes: Sequence[str], found: np.ndarray, truth: np.ndarray
) -> Iterator[str]:
    """Say where an AP rests on nothing.

    Args:
        classes: The names of the classes.
        found: How many detections there are of each class.
        truth: How many objects each class has in the annotations, crowds not counted.
    """
    if not truth.sum():
        yield "the annotations have no object to find, so there is no AP"
        return
    if not found.sum():
        yield f"nothing was found, of {truth.sum()} objects"
        return
    if absent := [name for name, count in zip(classes, truth, strict=True) if not count]:
        yield (
            f"the annotations have no object of {some(absent)}; the mean is over "
            f"{len(classes) - len(absent)} of {len(classes)} classes"
        )
    missed = [n for n, f, t in zip(classes, found, truth, strict=True) if t and not f]
    if missed:
        yield f"nothing was found of {some(missed)}, which count as 0"


def doubts_of_pixels(classes: Sequence[str], found: np.ndarray, truth: np.ndarray) -> Iterator[str]:
    """Say where an mIoU rests on nothing.

    Args:
        classes: The names of the classes.
        found: How many pixels are predicted as each class.
        truth: How many pixels each class has in the label maps, ignored ones not counted.
    """
    if not truth.sum():
        yield "the label maps have no pixel that counts, so there is no IoU"
        return
    seen = [name for name, count in zip(classes, truth, strict=True) if count]
    if len(seen) == 1 and len(classes) > 1:
        yield f"only {seen[0]} is in the label maps"
    counts = list(zip(classes, found, truth, strict=True))
    if absent := [name for name, predicted, true in counts if not predicted and not true]:
        yield (
            f"no pixel is {some(absent)}, labelled or predicted; the mean is over "
            f"{len(classes) - len(absent)} of {len(classes)} classes"
        )
    if false := [name for name, predicted, true in counts if predicted and not true]:
        yield f"{some(false)} predicted, but not in the label maps: counts as 0"
    if missed := [name for name, predicted, true in counts if true and not predicted]:
        yield f"{some(missed)} never predicted: counts as 0"


@HOOKS.register_module()
class EvidenceHook(Hook):
    """Says beside the metrics of boxes, masks and pixels what they rest on, where it is little.

    An AP that mmdet leaves out since nothing was found is reported as 0, so that it stands in the
    log, and a checkpoint may be the best by it.
    """

    priority = "HIGHEST"  # before the figures are noted, logged, and checkpoints chosen by them

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to count."""
        self._begin(runner.val_evaluator)

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin to count."""
        self._begin(runner.test_evaluator)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Count what the batch added to the metrics."""
        self._count(len(outputs))

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Count what the batch added to the metrics."""
        self._count(len(outputs))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Say what the figures of the validation rest on."""
        self._conclude(runner, metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Say what the figures of the test rest on."""
        self._conclude(runner, metrics)

    def _begin(self, evaluator: Evaluator) -> None:
        self.counted: list[tuple[BaseMetric, _Counts]] = []
        # Evaluators of several data sets share out the results only at the end.
        for metric in evaluator.metrics if type(evaluator) is Evaluator else ():
            counter = _COUNTERS.get(type(metric).__name__)
            classes = (metric.dataset_meta or {}).get("classes")
            if counter and classes and not getattr(metric, "format_only", False):
                self.counted.append((metric, counter(len(classes))))

    def _count(self, samples: int) -> None:
        for metric, counts in self.counted:
            # Each sample adds one result; all are dropped when they are evaluated.
            for result in metric.results[-samples:]:
                counts.add(result)

    def _conclude(self, runner: Runner, metrics: dict[str, float] | None) -> None:
        for metric, counts in self.counted:
            numbers = torch.from_numpy(np.stack([counts.found, counts.truth]))
            all_reduce(numbers)
            counts.found, counts.truth = numbers.numpy()
            counts.complete(metric, metrics)
            if not is_main_process():
                continue
            own = [key for key in metrics if key.startswith(_prefix(metric))]
            keys = [key for key in own if key.endswith(counts.main)]
            if not keys:
                continue
            doubts = list(counts.doubts(metric))
            # As pycocotools has it, of small, medium and large objects too.
            if absent := [key for key in own if metrics[key] == -1]:
                doubts.append(f"-1 ({some(absent)}) means that there is no such object")
            figures = ", ".join(f"{key} {metrics[key]:.3f}" for key in keys)
            for doubt in doubts:
                runner.logger.warning(f"{figures}, {MARK}{doubt}")


def _prefix(metric: BaseMetric) -> str:
    return f"{metric.prefix}/" if metric.prefix else ""


class _Counts:
    """How much of each class was found and is true."""

    main: tuple[str, ...] = ("mAP",)

    def __init__(self, classes: int) -> None:
        self.found, self.truth = np.zeros((2, classes), np.int64)

    def complete(self, metric: BaseMetric, metrics: dict[str, float]) -> None:
        """Add figures that the metric leaves out."""

    def doubts(self, metric: BaseMetric) -> Iterator[str]:
        """Say where the figures rest on nothing."""
        return doubts_of_objects(metric.dataset_meta["classes"], self.found, self.truth)


class _OfCoco(_Counts):
    def add(self, result: tuple[Mapping, Mapping]) -> None:
        self.found += np.bincount(result[1]["labels"], minlength=len(self.found))

    def complete(self, metric: BaseMetric, metrics: dict[str, float]) -> None:
        for kind in metric.metrics:
            keys = [f"{_prefix(metric)}{kind}_{item}" for item in metric.metric_items or ITEMS]
            if kind in ("bbox", "segm") and not self.found.sum():
                metrics.update({key: 0.0 for key in keys if key not in metrics})

    def doubts(self, metric: BaseMetric) -> Iterator[str]:
        file = metric._coco_api
        ids = getattr(metric, "label_ids", ()) or metric.cat_ids  # in the order of the labels
        names = [file.cats[key]["name"] for key in ids]
        truth = dict.fromkeys(ids, 0)
        for entry in file.anns.values():
            counts = not entry.get("iscrowd") and not entry.get("ignore")
            if counts and entry["category_id"] in truth:
                truth[entry["category_id"]] += 1
        return doubts_of_objects(names, self.found[: len(names)], np.array([*truth.values()]))


class _OfVoc(_Counts):
    def add(self, result: tuple[Mapping, Sequence]) -> None:
        self.found += [len(boxes) for boxes in result[1]]
        self.truth += np.bincount(result[0]["labels"], minlength=len(self.truth))


class _OfPixels(_Counts):
    main = ("mIoU", "mDice", "mFscore")

    def add(self, result: tuple) -> None:
        self.found += result[2].long().cpu().numpy()
        self.truth += result[3].long().cpu().numpy()

    def doubts(self, metric: BaseMetric) -> Iterator[str]:
        return doubts_of_pixels(metric.dataset_meta["classes"], self.found, self.truth)


_COUNTERS = {"CocoMetric": _OfCoco, "VOCMetric": _OfVoc, "IoUMetric": _OfPixels}
