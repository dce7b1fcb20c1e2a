"""What of a model is exported: the function, its inputs' and outputs' names and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pvt_mm.backbones import PVT, PVTv2
from pvt_mm.classification import PVTClassifier
from pvt_mm.errors import UserError
from pvt_mm.export.detectors import MaskRCNNGraph, RetinaNetGraph
from pvt_mm.export.others import BackboneGraph, ClassifierGraph, SemanticGraph

__all__ = ["Exportable", "backbone_exportable", "model_exportable"]

SUPPORTED = "RetinaNet, Faster and Mask R-CNN, Semantic FPN, the classifier, and backbones alone"
DETECTIONS = ("boxes", "scores", "labels")


@dataclass(frozen=True)
class Exportable:
    """A function of tensors and what is to be known of it.

    Args:
        module: The function, in eval mode.
        task: ``detection``, ``instances``, ``segmentation``, ``classification`` or ``features``.
        outputs: Names of the outputs.
        with_sizes: Whether a second input holds the images' sizes.
        newest_opset: Newest version of ONNX's operators that ONNX Runtime has for it.
        stride: Of its smallest map, in pixels.
        metadata: What pre- and post-processing have to know, by name.
    """

    module: nn.Module
    task: str
    outputs: tuple[str, ...]
    with_sizes: bool = False
    newest_opset: int = 23
    stride: int = 32
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return ("images", "image_sizes") if self.with_sizes else ("images",)

    def arguments(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all inputs for ``(B, C, h, w)`` images that were not padded."""
        if not self.with_sizes:
            return (images,)
        return images, torch.tensor([list(images.shape[2:])] * len(images))


def backbone_exportable(backbone: PVT | PVTv2) -> Exportable:
    """Describe a backbone alone.

    Raises:
        UserError: If it is no PVT.
    """
    if not isinstance(backbone, (PVT, PVTv2)):
        raise UserError(f"the backbone is a {type(backbone).__name__}; only PVTs are exported")
    outputs = tuple(f"stage{index + 1}" for index in backbone.out_indices)
    return Exportable(BackboneGraph(backbone.eval()), "features", outputs)


def model_exportable(model: nn.Module, logits: bool = False) -> Exportable:
    """Describe a whole model.

    Args:
        model: A detector, a segmentor or a classifier.
        logits: Whether a segmentor returns logits in place of labels.

    Raises:
        UserError: If its head or its test settings are not supported.
    """
    model.eval()
    name = type(model).__name__
    if isinstance(model, PVTClassifier):
        return Exportable(ClassifierGraph(model), "classification", ("logits",))
    if name == "EncoderDecoder":
        _require(type(model.decode_head).__name__ == "FPNHead", model.decode_head)
        mode = model.test_cfg.get("mode", "whole")
        if mode != "whole":
            raise UserError(f"model.test_cfg.mode is {mode!r}; only 'whole' is exported")
        outputs = ("logits",) if logits else ("labels",)
        return Exportable(SemanticGraph(model, logits), "segmentation", outputs)
    if name == "RetinaNet":
        _require(type(model.bbox_head).__name__ == "RetinaHead", model.bbox_head)
        _check_test_cfg("model.test_cfg", model.bbox_head.test_cfg, "nms_pre", "score_thr")
        stride = _largest_stride(model.bbox_head)
        return Exportable(RetinaNetGraph(model), "detection", DETECTIONS, True, stride=stride)
    if name in ("FasterRCNN", "MaskRCNN"):
        _check_two_stage(model)
        task, outputs = "detection", DETECTIONS
        if model.roi_head.with_mask:
            task, outputs = "instances", (*DETECTIONS, "masks")
        stride = _largest_stride(model.rpn_head)
        # RoiAlign of opset 22 is not implemented for CPUs.
        return Exportable(MaskRCNNGraph(model), task, outputs, True, newest_opset=21, stride=stride)
    raise UserError(f"a {name} is not exported as a whole; supported are {SUPPORTED}")


def _largest_stride(head: nn.Module) -> int:
    return max(max(pair) for pair in head.prior_generator.strides)


def _check_two_stage(model: nn.Module) -> None:
    roi_head = model.roi_head
    _require(type(model.rpn_head).__name__ == "RPNHead", model.rpn_head)
    _require(type(roi_head).__name__ == "StandardRoIHead", roi_head)
    _require(not roi_head.with_shared_head, roi_head)
    _check_test_cfg("model.test_cfg.rpn", model.rpn_head.test_cfg, "nms_pre")
    _check_test_cfg("model.test_cfg.rcnn", roi_head.test_cfg, "score_thr")
    extractors = [roi_head.bbox_roi_extractor]
    if roi_head.with_mask:
        _require(type(roi_head.mask_head).__name__ == "FCNMaskHead", roi_head.mask_head)
        extractors.append(roi_head.mask_roi_extractor)
    _require(not roi_head.bbox_head.custom_cls_channels, roi_head.bbox_head)
    for extractor in extractors:
        _require(type(extractor).__name__ == "SingleRoIExtractor", extractor)
        for layer in extractor.roi_layers:
            exported = type(layer).__name__ == "RoIAlign" and layer.aligned
            _require(exported and layer.pool_mode == "avg", layer)


def _require(supported: bool, module: nn.Module) -> None:
    if not supported:
        raise UserError(
            f"{type(module).__name__}, as the config sets it, is not exported; "
            f"supported are {SUPPORTED}; --part backbone exports the PVT of any model"
        )


def _check_test_cfg(name: str, cfg: Mapping, *positive: str) -> None:
    for key in (*positive, "max_per_img"):
        if cfg.get(key, -1) < 0 or (key != "score_thr" and cfg[key] == 0):
            raise UserError(f"{name}.{key} is {cfg.get(key)}; an export needs a positive number")
    kind = cfg["nms"].get("type", "nms")
    if kind != "nms":
        raise UserError(f"{name}.nms.type is {kind!r}; ONNX has 'nms' only")
