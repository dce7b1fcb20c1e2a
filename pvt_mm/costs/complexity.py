"""Parameters and operations of backbones and of whole models.

An operation is one multiply-add: those of convolutions, linear layers and matrix products, the two
products of attention among them, and, as mmengine counts them, those of norms, pooling and bilinear
resizing, which are below one percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from pvt_mm.archs import ARCHS
from pvt_mm.config.models import build_model

MASKS = 100

__all__ = ["Complexity", "build_arch", "complexity", "config_complexity"]


@dataclass(frozen=True)
class Complexity:
    """What one image costs.

    Attributes:
        params: Number of parameters.
        flops: Multiply-adds of a forward pass.
        parts: Multiply-adds of each direct child, such as backbone, neck and head.
        operators: Multiply-adds of each kind of operator.
    """

    params: int
    flops: int
    parts: dict[str, int]
    operators: dict[str, int]


def _attention(inputs: Sequence, outputs: Sequence) -> int:
    """Count both products of attention: queries with keys, weights with values."""
    query, key, value = (item.type().sizes() for item in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _masked_scores(inputs: Sequence, outputs: Sequence) -> int:
    """Count the product of queries with keys to which a mask is added."""
    queries, keys = (item.type().sizes() for item in inputs[1:3])
    return math.prod(queries) * keys[-1]


def complexity(model: nn.Module, inputs: tuple[Tensor, ...]) -> Complexity:
    """Count the operations of ``model(*inputs)``, by running it once.

    Args:
        model: Any module; it is measured in eval mode.
        inputs: What its forward takes.
    """
    training = model.training
    analyzer = FlopAnalyzer(model.eval(), inputs)
    analyzer.set_op_handle("aten::scaled_dot_product_attention", _attention)
    analyzer.set_op_handle("aten::baddbmm", _masked_scores)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analyzer.tracer_warnings("none")
    try:
        with torch.no_grad():
            modules = analyzer.by_module()
            operators = analyzer.by_operator()
    finally:
        model.train(training)
    parts = {name: int(count) for name, count in modules.items() if name and "." not in name}
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        flops=int(modules[""]),
        parts={name: count for name, count in parts.items() if count},
        operators={name: int(count) for name, count in operators.items()},
    )


def build_arch(name: str) -> nn.Module:
    """Build a backbone by the name of its release, with random weights.

    Args:
        name: A name in the table of architectures, such as ``pvt_v2_b2``.
    """
    return MODELS.build(ARCHS[name].config).eval()


def config_complexity(cfg: Config, shape: tuple[int, int]) -> Complexity:
    """Count the operations of a config's whole model, as far as its losses start.

    A two-stage detector is counted with all proposals of its test settings in the box heads, and
    with 100 of them in the mask heads.

    Args:
        cfg: A config of mmdet or mmseg.
        shape: Height and width of the image in pixels.
    """
    model = build_model(cfg, preprocess=False)
    image = torch.zeros(1, 3, *shape)
    if cfg.get("default_scope") == "mmdet":
        model.forward = partial(model.forward, data_samples=[_detection_sample(shape)])
        _prepare_detector(model)
    elif cfg.get("default_scope") == "mmseg":
        _prepare_segmentor(model, shape)
    return complexity(model, (image,))


def _prepare_detector(model: nn.Module) -> None:
    """Mend what keeps a detector with random weights from being counted.

    Sparse R-CNN's learned boxes have no size before they are initialised. How many proposals
    another's suppression leaves would depend on the weights. A cascade gives all proposals to its
    mask heads, while mmdet's other detectors give 100.
    """
    from mmdet.models import CascadeRoIHead, EmbeddingRPNHead

    rpn = getattr(model, "rpn_head", None)
    if isinstance(rpn, EmbeddingRPNHead):
        nn.init.constant_(rpn.init_proposal_bboxes.weight[:, :2], 0.5)
        nn.init.constant_(rpn.init_proposal_bboxes.weight[:, 2:], 1.0)
    elif rpn is not None and "nms" in (rpn.test_cfg or {}):
        rpn.test_cfg.nms.iou_threshold = 1.0  # nothing is suppressed
    head = getattr(model, "roi_head", None)
    if not isinstance(head, CascadeRoIHead) or not head.with_mask:
        return
    whole = head._mask_forward

    def limited(stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict:
        masks = whole(stage, x, rois[:MASKS])["mask_preds"]
        # The caller wants one for each region; what is in it does not matter.
        return {"mask_preds": masks[:1, :, :1, :1].expand(len(rois), -1, -1, -1)}

    head._mask_forward = limited


def _prepare_segmentor(model: nn.Module, shape: tuple[int, int]) -> None:
    """Give Mask2Former's head the samples that mmseg's forward pass without losses forgets."""
    from mmseg.models import Mask2FormerHead
    from mmseg.structures import SegDataSample

    head = model.decode_head
    if isinstance(head, Mask2FormerHead):
        samples = [SegDataSample(metainfo={"img_shape": shape})]
        head.forward = partial(head.forward, batch_data_samples=samples)


def _detection_sample(shape: tuple[int, int]):
    """Make what mmdet wants to know about an image."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    meta = dict.fromkeys(names, shape) | {"scale_factor": (1.0, 1.0)}
    # Sparse R-CNN's forward pass matches its boxes with the annotated ones: none.
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return DetDataSample(metainfo=meta, gt_instances=nothing)
