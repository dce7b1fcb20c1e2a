"""COCO's format with labels that follow the names of the classes, in whatever order the file is.

mmdet's own classes give labels by the place of a category in the file: a file in another order than
``metainfo.classes`` is learnt, and scored, under the wrong names without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as MMDetCocoMetric

from pvt_mm.registry import DATASETS, METRICS

__all__ = ["ByNameCOCO", "CocoDataset", "CocoMetric"]


def in_order_of(names: Sequence[str], ids: Sequence[int], coco: COCO) -> list[int]:
    """Sort ids of a file's categories by the place of their names in ``names``."""
    return sorted(ids, key=lambda number: names.index(coco.cats[number]["name"]))


class ByNameCOCO(COCO):
    """mmdet's reader of COCO's format, but for the order of the categories that are asked for."""

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence = (), cat_ids: Sequence = ()
    ) -> list[int]:
        """Tell the ids of categories: in the order of ``cat_names``, or of the file if it is empty.

        Args:
            cat_names: Names of categories, or all.
            sup_names: Names of parent categories, or all.
            cat_ids: Ids, or all.
        """
        ids = super().get_cat_ids(cat_names, sup_names, cat_ids)
        return in_order_of(cat_names, ids, self) if cat_names else ids


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset`` whose labels are places in ``metainfo.classes``.

    For a file that lists its categories in the order of the classes, as COCO's own do, it is the
    same data set. Arguments are those of mmdet's.
    """

    COCOAPI = ByNameCOCO
    labels_by_name = True


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's ``CocoMetric`` that finds a label's category by the name of the class.

    Each class's AP is told under its own name, too, which mmdet's does only if the ids of the
    categories rise. Arguments are those of mmdet's.

    Attributes:
        label_ids: The category's id of each label, once something was scored.
    """

    label_ids: Sequence[int] = ()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score predictions.

        Args:
            results: What ``process`` kept of each image.

        Returns:
            AP and AR by name.
        """
        if self._coco_api is not None:
            classes = self.dataset_meta["classes"]
            ids = self._coco_api.get_cat_ids(cat_names=classes)
            self.label_ids = in_order_of(classes, ids, self._coco_api)
            # pycocotools sorts the ids, and mmdet names what it makes by the places in this list.
            self.cat_ids = sorted(ids)
            place = np.array([self.cat_ids.index(number) for number in self.label_ids])
            results = [
                (truth, {**found, "labels": place[found["labels"]]}) for truth, found in results
            ]
        return super().compute_metrics(results)
