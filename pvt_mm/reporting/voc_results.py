"""A detector's predictions on Pascal VOC's XML files, scored as mmdet's VOCMetric scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric, VOCMetric
from mmdet.evaluation.functional import eval_map

from pvt_mm.reporting.coco_results import CocoResults

__all__ = ["VocResults"]


class VocResults(CocoResults):
    """Predictions beside the annotations of a test set that mmdet read from XML files.

    AP is VOC's, by the metric's own settings. Matches, of which objects missed and false boxes are
    counted, are COCO's, with what VOC calls difficult as crowds: neither found nor missed.

    Args:
        classes: Names of the classes.
        infos: What the data set says of its images.
        metric: The metric whose settings decide what AP is.
        samples: The predictions, one dict for each image.
    """

    def __init__(
        self,
        classes: Sequence[str],
        infos: Sequence[Mapping],
        metric: VOCMetric,
        samples: Sequence[Mapping],
    ) -> None:
        cat_ids = range(1, len(classes) + 1)
        super().__init__(_as_coco(classes, infos), cat_ids, CocoMetric(metric="bbox"), samples)
        self.voc = metric
        self.voc.dataset_meta = {"classes": tuple(classes)}
        predicted = {sample["img_id"]: sample["pred_instances"] for sample in samples}
        for info in infos:
            self.voc.process({}, [_sample(info, predicted[info["img_id"]])])

    @cached_property
    def average_precisions(self) -> dict[str, np.ndarray]:
        """AP by class, ``(classes,)``; nan where there is no object that counts."""
        truth, found = zip(*self.voc.results, strict=True)
        named = {}
        for iou in self.voc.iou_thrs:
            _, by_class = eval_map(
                found,
                truth,
                iou_thr=iou,
                dataset=self.voc.dataset_meta["classes"],
                logger="silent",
                eval_mode=self.voc.eval_mode,
                use_legacy_coordinate=True,  # as VOCMetric has it
            )
            named[f"VOC AP{round(iou * 100)}"] = np.array(
                [each["ap"] if each["num_gts"] else np.nan for each in by_class], float
            )
        return named


def _as_coco(classes: Sequence[str], infos: Sequence[Mapping]) -> COCO:
    """Turn the boxes of a data set into COCO's annotations, in memory."""
    annotations = []
    for info in infos:
        for each in info["instances"]:
            x1, y1, x2, y2 = each["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": info["img_id"],
                    "category_id": each["bbox_label"] + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": each["ignore_flag"],
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": info["img_id"], "height": info["height"], "width": info["width"]}
            for info in infos
        ],
        "categories": [{"id": key, "name": name} for key, name in enumerate(classes, start=1)],
        "annotations": annotations,
    }
    coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs  # as mmdet's wrapper has it
    return coco


def _sample(info: Mapping, predicted: Mapping) -> dict:
    """Give annotations and predictions of an image the form in which a test hands them over."""
    sides = {}
    for name, ignored in (("gt_instances", 0), ("ignored_instances", 1)):
        chosen = [each for each in info["instances"] if each["ignore_flag"] == ignored]
        sides[name] = {
            "bboxes": torch.tensor([each["bbox"] for each in chosen]).float().reshape(-1, 4),
            "labels": torch.tensor([each["bbox_label"] for each in chosen]).long(),
        }
    return {**sides, "pred_instances": predicted}
