"""A detector's predictions as pycocotools evaluates them, with the settings of mmdet's metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmengine.fileio import load

__all__ = ["CocoResults"]

KINDS = {"bbox": "box", "segm": "mask"}
NAMED_IOUS = {"AP50": 0.5, "AP75": 0.75}


class CocoResults:
    """Predictions beside the annotations of their test set; pycocotools prints what it does.

    Args:
        truth: The annotations.
        cat_ids: The identities of the classes, in their order.
        metric: The metric whose settings decide what AP is.
        samples: The predictions, one dict for each image.
    """

    def __init__(
        self, truth: COCO, cat_ids: Sequence[int], metric: CocoMetric, samples: Sequence[Mapping]
    ) -> None:
        self.truth, self.cat_ids, self.metric = truth, list(cat_ids), metric
        self.label_of = {key: label for label, key in enumerate(self.cat_ids)}
        metric.cat_ids = self.cat_ids
        self.found = self._read(samples)

    @property
    def has_masks(self) -> bool:
        """Whether masks are evaluated, too."""
        return "segm" in self.found

    @cached_property
    def average_precisions(self) -> dict[str, np.ndarray]:
        """AP by class, ``(classes,)``; nan where there is no object.

        The names are such as ``box AP50``.
        """
        named = {}
        for kind in self.found:
            evaluation = self._evaluate(kind, self.metric.iou_thrs)
            evaluation.accumulate()
            # pycocotools has sorted the ids.
            order = [evaluation.params.catIds.index(key) for key in self.cat_ids]
            precision = evaluation.eval["precision"][:, :, order, 0, -1]  # IoU, recall, class
            named[f"{KINDS[kind]} AP"] = _by_class(precision)
            for name, iou in NAMED_IOUS.items():
                at = np.isclose(self.metric.iou_thrs, iou)
                if at.any():
                    named[f"{KINDS[kind]} {name}"] = _by_class(precision[at])
        return named

    def match(self, iou: float, classwise: bool = True) -> COCOeval:
        """Match boxes with objects, the highest score first.

        Args:
            iou: From which on they may match.
            classwise: Whether they have to be of one class.

        Returns:
            The evaluation, with the matches in its ``evalImgs``.
        """
        return self._evaluate("bbox", [iou], classwise)

    def _read(self, samples: Sequence[Mapping]) -> dict[str, COCO]:
        """Turn predictions into COCO's results: boxes, and masks if the metric wants them."""
        results = []
        for sample in samples:
            instances = dict(sample["pred_instances"])
            for key in ("bboxes", "scores", "labels"):
                instances[key] = instances[key].numpy()
            results.append({**instances, "img_id": sample["img_id"]})
        with TemporaryDirectory() as folder:
            files = self.metric.results2json(results, str(Path(folder, "results")))
            with_masks = "segm" in files and "segm" in self.metric.metrics
            kinds = ("bbox", "segm") if with_masks else ("bbox",)
            entries = {kind: load(files[kind]) for kind in kinds}
        for entry in entries.get("segm", ()):
            del entry["bbox"]  # areas are those of the masks
        return {kind: self._results(listed) for kind, listed in entries.items()}

    def _results(self, entries: list[dict]) -> COCO:
        if entries:
            return self.truth.loadRes(entries)
        nothing = COCO()  # pycocotools reads no empty list
        nothing.dataset = {**self.truth.dataset, "annotations": []}
        nothing.createIndex()
        return nothing

    def _evaluate(self, kind: str, ious: Sequence[float], classwise: bool = True) -> COCOeval:
        evaluation = COCOeval(self.truth, self.found[kind], kind)
        params = evaluation.params
        params.catIds, params.imgIds = self.cat_ids, self.truth.get_img_ids()
        params.maxDets = list(self.metric.proposal_nums)
        params.iouThrs = np.asarray(ious)
        params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
        params.useCats = int(classwise)
        evaluation.evaluate()
        return evaluation


def _by_class(precision: np.ndarray) -> np.ndarray:
    """Average over IoUs and recalls; -1 marks classes without objects."""
    return np.where((precision > -1).any((0, 1)), precision.mean((0, 1)), np.nan)
