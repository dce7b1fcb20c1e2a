"""What is checked of each sample that a training loads, and how its faults are worded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement

from pvt_mm.data.checks import ERROR, IGNORED, KINDS, check_mask
from pvt_mm.wording import one_line

__all__ = ["check_masks", "check_sample", "describe"]


def check_masks(info: Mapping[str, Any]) -> None:
    """Check the masks of a sample before pycocotools gets them, which would crash or not end.

    Args:
        info: What the data set knows of the sample.

    Raises:
        ValueError: Naming the first fault.
    """
    for number, instance in enumerate(info.get("instances", ())):
        if "mask" not in instance:
            raise ValueError(f"object {number} has no segmentation")
        for kind, found in check_mask(instance["mask"], info["height"], info["width"]):
            if KINDS[kind].level == ERROR:
                raise ValueError(f"object {number}: {found}; expected {KINDS[kind].expected}")


def check_sample(sample: Any, dataset: BaseDataset, training: bool) -> None:
    """Check what would crash on the GPU or make the loss NaN, after the pipeline.

    Args:
        sample: What the pipeline packed: ``inputs`` and ``data_samples``, if it is of that form.
        dataset: The data set.
        training: Whether it is trained on; a test pipeline leaves the label map at its own size.

    Raises:
        ValueError: Naming the fault.
    """
    truth = sample.get("data_samples") if isinstance(sample, Mapping) else None
    if not isinstance(truth, BaseDataElement):
        return
    count = len(dataset.metainfo.get("classes") or ())
    if "gt_instances" in truth:
        _check_boxes(truth.gt_instances, count)
    if "gt_sem_seg" in truth:
        _check_labels(truth.gt_sem_seg.data, count, getattr(dataset, "ignore_index", IGNORED))
        size = tuple(truth.gt_sem_seg.data.shape[-2:])
        if training and size != tuple(sample["inputs"].shape[-2:]):
            shape = tuple(sample["inputs"].shape[-2:])
            raise ValueError(f"its label map is {size} after the pipeline, the image {shape}")


def _check_boxes(instances: Any, num_classes: int) -> None:
    boxes = getattr(instances.get("bboxes"), "tensor", instances.get("bboxes"))
    if boxes is not None and not torch.isfinite(boxes).all():
        raise ValueError("a box is not finite")
    labels = instances.get("labels")
    if labels is not None and num_classes and labels.numel() and labels.max() >= num_classes:
        raise ValueError(f"label {int(labels.max())}, but there are {num_classes} classes")


def _check_labels(labels: torch.Tensor, num_classes: int, ignored: int) -> None:
    if labels.ndim != 3 or labels.shape[0] != 1:
        raise ValueError(f"its label map is of shape {tuple(labels.shape)}, not one channel")
    top = labels.masked_fill(labels == ignored, 0).max() if labels.numel() else 0
    if num_classes and top >= num_classes:
        raise ValueError(f"label {int(top)} in its label map, but there are {num_classes} classes")


def describe(error: Exception) -> str:
    """Word an error in one line, with the transform of the pipeline in which it arose."""
    transform, trace = "", error.__traceback__
    while trace is not None and not transform:
        owner = trace.tb_frame.f_locals.get("self")
        if hasattr(owner, "transform") and not hasattr(owner, "transforms"):
            transform = f"{type(owner).__name__}: "
        trace = trace.tb_next
    return f"{transform}{one_line(error)}"
