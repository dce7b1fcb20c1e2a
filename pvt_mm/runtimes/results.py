"""From an exported graph's outputs to the data samples that mm's own models return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

__all__ = ["classified", "detected", "segmented"]

# Shape legend: D detections an image, S side of a mask, K classes, (h, w) the padded input.

Outputs = Mapping[str, np.ndarray]


def detected(
    samples: Sequence[BaseDataElement], outputs: Outputs, metadata: Mapping[str, Any]
) -> None:
    """Give each sample its ``pred_instances``, in pixels of the image before it was resized.

    Args:
        samples: One for each image, changed in place.
        outputs: ``boxes (B, D, 4)``, ``scores``, ``labels`` and perhaps ``masks (B, D, S, S)``.
        metadata: The file's; of it ``mask_threshold``.
    """
    found = {name: torch.from_numpy(array) for name, array in outputs.items()}
    for index, sample in enumerate(samples):
        there = found["labels"][index] >= 0
        instances = InstanceData(
            bboxes=found["boxes"][index][there],
            scores=found["scores"][index][there],
            labels=found["labels"][index][there],
        )
        if "masks" in found:
            masks = found["masks"][index][there][:, None]  # (n, 1, S, S)
            _paste(instances, masks, sample.metainfo, metadata["mask_threshold"])
        else:
            factors = instances.bboxes.new_tensor(sample.scale_factor).repeat(2)
            instances.bboxes = instances.bboxes / factors
        sample.pred_instances = instances


def _paste(
    instances: InstanceData, masks: Tensor, meta: Mapping[str, Any], threshold: float
) -> None:
    """Let MMDetection's mask head resize boxes and masks to the image, in place."""
    from mmengine.config import ConfigDict

    settings = ConfigDict(mask_thr_binary=threshold)
    (pasted,) = _mask_head().predict_by_feat(
        (masks,), [instances], [meta], settings, rescale=True, activate_map=True
    )
    instances.masks = pasted.masks


@cache
def _mask_head() -> nn.Module:
    """A mask head without layers, for what it does behind them."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    return FCNMaskHead(num_convs=0, num_classes=1, class_agnostic=True, upsample_cfg={"type": None})


def segmented(
    samples: Sequence[BaseDataElement], outputs: Outputs, align_corners: bool = False
) -> None:
    """Give each sample its ``pred_sem_seg``, and ``seg_logits`` if the graph returns them.

    Logits are resized before the highest is taken, as MMSegmentation does; labels, which have no
    values in between, are taken from the nearest pixel.

    Args:
        samples: One for each image, changed in place.
        outputs: ``logits (B, K, h, w)`` or ``labels (B, h, w)``.
        align_corners: How the head resizes.
    """
    for index, sample in enumerate(samples):
        if "labels" in outputs:
            labels = torch.from_numpy(outputs["labels"][index]).float()[None]
            labels = _fitted(labels, sample.metainfo, mode="nearest").long()
        else:
            logits = torch.from_numpy(outputs["logits"][index])
            logits = _fitted(logits, sample.metainfo, mode="bilinear", align_corners=align_corners)
            labels = logits.argmax(0, keepdim=True)
            sample.seg_logits = PixelData(data=logits)
        sample.pred_sem_seg = PixelData(data=labels)


def _fitted(maps: Tensor, meta: Mapping[str, Any], **how: Any) -> Tensor:
    """Cut the padding off ``(C, h, w)`` maps and resize them to the image."""
    padding = meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0)))
    left, right, top, bottom = padding
    height, width = maps.shape[1:]
    maps = maps[:, top : height - bottom, left : width - right]
    if maps.shape[1:] == tuple(meta["ori_shape"][:2]):
        return maps
    return F.interpolate(maps[None], size=tuple(meta["ori_shape"][:2]), **how)[0]


def classified(
    outputs: Outputs, labels: Tensor | None, paths: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Return what :class:`~pvt_mm.PVTClassifier` predicts, from ``logits (B, K)``."""
    from pvt_mm.classification.classifier import predictions

    return predictions(torch.from_numpy(outputs["logits"]), labels, paths)
