"""Accuracy of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from pvt_mm.registry import METRICS

__all__ = ["TopKAccuracy"]


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Share of images whose class is among the ``k`` that scored highest, in percent.

    A class that ties with the right one counts as scoring higher, and so does NaN: a broken
    network has no accuracy.

    Args:
        topk: The values of ``k``.
        kwargs: Arguments of mmengine's ``BaseMetric``.
    """

    default_prefix = "accuracy"

    def __init__(self, topk: Sequence[int] = (1, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not topk or min(topk) < 1:
            raise ValueError(f"topk must hold positive numbers, got {topk!r}")
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Note the rank of each image's own class, counted from 0."""
        for sample in data_samples:
            scores, label = sample["pred_scores"], sample["gt_label"]
            not_lower = (~(scores < scores[label])).sum()  # NaN is not lower either
            self.results.append(int(not_lower) - 1)

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Turn all ranks into ``top1``, ``top5``..."""
        return {
            f"top{k}": 100 * sum(rank < k for rank in results) / max(len(results), 1)
            for k in self.topk
        }
