"""Pictures of annotated and of predicted objects, by mmdet's visualizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import Compose
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData
from pycocotools import mask as coco_masks

from pvt_mm.reporting.evaluation import display_size

__all__ = ["DetectionPictures"]


class DetectionPictures:
    """Draws an image of the test set twice, with what is there and with what was predicted.

    Args:
        dataset: The test set.
        samples: Its predictions, by the images' identities.
        masks: Whether to draw masks, too.
        score_thr: Boxes and masks of a lower score are not drawn.
    """

    def __init__(
        self, dataset: BaseDataset, samples: Mapping[Any, Mapping], masks: bool, score_thr: float
    ) -> None:
        self.dataset, self.samples, self.masks = dataset, samples, masks
        self.score_thr = score_thr
        self.visualizer = DetLocalVisualizer(line_width=2)
        self.visualizer.dataset_meta = dataset.metainfo

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return both pictures, ``(H, W, 3)``, RGB."""
        info = self.dataset.get_data_info(index)
        height, width = info["height"], info["width"]
        size = display_size(height, width)
        loaded = self._load(info, size)
        sample = loaded["data_samples"]
        annotated = sample.gt_instances
        annotated.bboxes = annotated.bboxes.tensor
        sample.pred_instances = self._predicted(info["img_id"], (height, width), size)
        image = np.ascontiguousarray(loaded["inputs"].permute(1, 2, 0).numpy()[..., ::-1])
        return self._draw(image, sample, True), self._draw(image, sample, False)

    def _load(self, info: dict, size: tuple[int, int]) -> dict:
        steps = (
            {"type": "LoadImageFromFile", "backend_args": self.dataset.backend_args},
            {"type": "LoadAnnotations", "with_bbox": True, "with_mask": self.masks},
            {"type": "Resize", "scale": size[::-1], "keep_ratio": False},
            {"type": "PackDetInputs", "meta_keys": ()},
        )
        # Other libraries have a LoadAnnotations of their own.
        with TRANSFORMS.switch_scope_and_registry("mmdet") as registry:
            return Compose([registry.build(step) for step in steps])(info)

    def _predicted(
        self, image: Any, original: tuple[int, int], size: tuple[int, int]
    ) -> InstanceData:
        found = self.samples[image]["pred_instances"]
        kept = found["scores"] >= self.score_thr
        (height, width), (new_height, new_width) = original, size
        stretch = found["bboxes"].new_tensor([new_width / width, new_height / height] * 2)
        instances = InstanceData(
            bboxes=found["bboxes"][kept] * stretch,
            labels=found["labels"][kept],
            scores=found["scores"][kept],
        )
        if self.masks:
            codes = [code for code, keep in zip(found["masks"], kept, strict=True) if keep]
            bitmaps = [coco_masks.decode(code) for code in codes]
            instances.masks = BitmapMasks(bitmaps, height, width).resize(size).masks
        return instances

    def _draw(self, image: np.ndarray, sample: DetDataSample, truth: bool) -> np.ndarray:
        self.visualizer.add_datasample(
            "picture",
            image,
            sample,
            draw_gt=truth,
            draw_pred=not truth,
            pred_score_thr=0.0,  # chosen already
        )
        return self.visualizer.get_image()
