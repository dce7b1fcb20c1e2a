"""A detector's predictions against the annotations, by pycocotools and mmdet's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from pvt_mm.errors import UserError
from pvt_mm.reporting.coco_results import CocoResults
from pvt_mm.reporting.confusion import Confusion
from pvt_mm.reporting.detection_pictures import DetectionPictures
from pvt_mm.reporting.evaluation import (
    Evaluation,
    ImageScore,
    Table,
    build_test_set,
    check_same_images,
)
from pvt_mm.reporting.predictions import read_detections
from pvt_mm.reporting.voc_results import VocResults
from pvt_mm.training.evidence import doubts_of_objects

__all__ = ["evaluate_detections"]

SCORE = 0.3  # below, a box counts as not predicted, except in AP
IOU = 0.5  # from here on a box is that of an object
BACKGROUND = "(nothing)"


def evaluate_detections(cfg: Config, path: Path) -> Evaluation:
    """Evaluate a file of predictions on the config's test set.

    Args:
        cfg: The run's config.
        path: What ``tools/test.py --out`` wrote.

    Raises:
        UserError: If they don't fit each other, or nothing here reads the test set or its metric.
    """
    samples = read_detections(path)
    dataset = build_test_set(cfg)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    check_same_images(path, map(_key, samples), map(_key, infos))
    classes = dataset.metainfo["classes"]
    _check_labels(path, samples, len(classes))
    results = _results(cfg, dataset, infos, samples)
    by_class, by_image = _tally(results)
    by_id = {sample["img_id"]: sample for sample in samples}
    return Evaluation(
        metrics={name: _mean(each) for name, each in results.average_precisions.items()},
        table=_table(classes, by_class, results.average_precisions),
        confusion=_confusion(results, classes),
        images=list(_ranked(infos, by_image, classes)),
        score_name=f"F1 at IoU {IOU} and score {SCORE}",
        doubts=list(doubts_of_objects(classes, *_counts(results, by_class))),
        draw=DetectionPictures(dataset, by_id, results.has_masks, SCORE),
    )


def _counts(results: CocoResults, by_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count detections of any score, and objects, by class."""
    found = Counter(entry["category_id"] for entry in results.found["bbox"].anns.values())
    return np.array([found[key] for key in results.cat_ids]), by_class[:, :2].sum(1)


def _key(image: Mapping[str, Any]) -> str:
    return f"{Path(image['img_path']).name} (id {image['img_id']})"


def _check_labels(path: Path, samples: Sequence[Mapping], classes: int) -> None:
    for sample in samples:
        labels = sample["pred_instances"]["labels"]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UserError(
                f"--predictions {path}: class {int(labels.max())} in {sample['img_path']}, but "
                f"the run's test set has {classes} classes"
            )


def _results(
    cfg: Config, dataset: BaseDataset, infos: Sequence[Mapping], samples: Sequence[Mapping]
) -> CocoResults:
    """Build the config's own metric, whose settings decide what AP is, and evaluate with it."""
    evaluators = cfg.test_evaluator
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for config in evaluators:
        kind = str(config.get("type")).rpartition(".")[2]
        if kind not in ("CocoMetric", "VOCMetric"):
            continue
        with METRICS.switch_scope_and_registry("mmdet") as registry:
            metric = registry.build(config)
        if kind == "VOCMetric":
            return VocResults(dataset.metainfo["classes"], infos, metric, samples)
        if hasattr(dataset, "cat_ids"):
            return CocoResults(COCO(dataset.ann_file), dataset.cat_ids, metric, samples)
        raise UserError(f"CocoMetric can't score a {type(dataset).__name__}; take VOCMetric")
    raise UserError("the page needs a CocoMetric or VOCMetric in the config's test_evaluator")


def _mean(by_class: np.ndarray) -> float | None:
    counted = by_class[~np.isnan(by_class)]
    return float(counted.mean()) if counted.size else None


def _tally(results: CocoResults) -> tuple[np.ndarray, dict[Any, np.ndarray]]:
    """Count objects found, objects missed and false boxes.

    Returns:
        ``(classes, 3)``, and the same for each image's identity.
    """
    evaluation, classes = results.match(IOU), len(results.cat_ids)
    by_image = {image: np.zeros((classes, 3), int) for image in evaluation.params.imgIds}
    for entry in filter(None, evaluation.evalImgs):
        kept = (np.array(entry["dtScores"]) >= SCORE) & ~entry["dtIgnore"][0].astype(bool)
        right = kept & (entry["dtMatches"][0] > 0)
        objects = np.count_nonzero(~np.array(entry["gtIgnore"], bool))
        found = right.sum()
        label = results.label_of[entry["category_id"]]
        by_image[entry["image_id"]][label] = found, objects - found, kept.sum() - found
    return sum(by_image.values(), np.zeros((classes, 3), int)), by_image


def _confusion(results: CocoResults, classes: Sequence[str]) -> Confusion:
    """Match boxes and objects whatever their classes, the highest score first."""
    evaluation, labels = results.match(IOU, classwise=False), results.label_of
    nothing = len(labels)
    counts = np.zeros((nothing + 1, nothing + 1), int)
    label_of = [
        {key: labels.get(entry["category_id"]) for key, entry in side.anns.items()}
        for side in (evaluation.cocoGt, evaluation.cocoDt)
    ]
    for entry in filter(None, evaluation.evalImgs):
        left = {
            key
            for key, ignored in zip(entry["gtIds"], entry["gtIgnore"], strict=True)
            if not ignored and label_of[0][key] is not None  # the config may leave classes out
        }
        rows = zip(
            entry["dtIds"],
            entry["dtScores"],
            entry["dtMatches"][0],
            entry["dtIgnore"][0],
            strict=True,
        )
        for key, score, match, ignored in rows:
            if score < SCORE or ignored:
                continue
            true = label_of[0][int(match)] if match else nothing
            if true is not None:
                counts[true, label_of[1][key]] += 1
            left.discard(int(match))
        for key in left:
            counts[label_of[0][key], nothing] += 1
    return Confusion((*classes, BACKGROUND), counts, "objects", background=True)


def _table(
    classes: Sequence[str],
    counts: np.ndarray,
    precisions: Mapping[str, np.ndarray],
) -> Table:
    rows = [
        (
            name,
            *(_mean(each[label : label + 1]) for each in precisions.values()),
            found + missed,
            missed,
            false,
        )
        for label, (name, (found, missed, false)) in enumerate(
            zip(classes, counts.tolist(), strict=True)
        )
    ]
    columns = ("class", *precisions, "objects", "missed", "false")
    note = f"Missed objects and false boxes are counted at IoU {IOU} and score {SCORE}."
    return Table(columns, rows, note)


def _ranked(
    infos: Sequence[Mapping], by_image: Mapping[Any, np.ndarray], classes: Sequence[str]
) -> Iterator[ImageScore]:
    for index, info in enumerate(infos):
        counts = by_image[info["img_id"]]
        found, missed, false = counts.sum(axis=0).tolist()
        if total := 2 * found + missed + false:
            parts = [f"{found} of {found + missed} found"]
            for what, column in (("missed", 1), ("false", 2)):
                if counts[:, column].any():
                    named = [f"{n} {classes[i]}" for i, n in enumerate(counts[:, column]) if n]
                    parts.append(f"{what}: {', '.join(named)}")
            name = Path(info["img_path"]).name
            yield ImageScore(
                index, name, 2 * found / total, found + missed + false, "; ".join(parts)
            )
