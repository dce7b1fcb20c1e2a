"""mmcv's operators on a GPU against the same operators on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _paths  # noqa: F401
import torch
from gpu_backbones import EXACT, verdict
from torch import Tensor

Tensors = list[Tensor]
# Inputs, and from them a result; floating inputs want gradients.
Operator = tuple[Callable[[], Tensors], Callable[..., Tensor]]


def boxes(count: int, height: int = 200, width: int = 336) -> Tensor:
    """Random boxes ``(count, 4)`` as x1, y1, x2, y2 inside of a map."""
    corner = torch.rand(count, 2) * torch.tensor([width * 0.7, height * 0.7])
    size = 8 + torch.rand(count, 2) * torch.tensor([width * 0.25, height * 0.25])
    return torch.cat([corner, corner + size], dim=1)


def feature_map(channels: int = 32) -> Tensor:
    """A random map ``(2, channels, 50, 84)``."""
    return torch.randn(2, channels, 50, 84)


def rois(count: int) -> Tensor:
    """Boxes with the image that each lies in, ``(count, 5)``."""
    return torch.cat([torch.randint(2, (count, 1)).float(), boxes(count)], dim=1)


def _nms(candidates: Tensor, scores: Tensor) -> Tensor:
    from mmcv.ops import nms

    kept, indices = nms(candidates.detach(), scores.detach(), iou_threshold=0.5)
    return torch.cat([kept, indices[:, None].to(kept)], dim=1)


def _batched_nms(candidates: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    from mmcv.ops import batched_nms

    how = {"type": "nms", "iou_threshold": 0.5}
    kept, indices = batched_nms(candidates.detach(), scores.detach(), classes, how)
    return torch.cat([kept, indices[:, None].to(kept)], dim=1)


def _roi_align(features: Tensor, regions: Tensor) -> Tensor:
    from mmcv.ops import roi_align

    return roi_align(features, regions.detach(), (7, 7), 0.25, 0, "avg", True)


def _focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The CPU has no kernel of mmcv's; mmdet computes the same from PyTorch's operators."""
    if logits.is_cuda:
        from mmcv.ops import sigmoid_focal_loss

        return sigmoid_focal_loss(logits, targets, 2.0, 0.25, None, "none")
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    one_hot = torch.nn.functional.one_hot(targets, logits.shape[1] + 1)[:, :-1]
    return py_sigmoid_focal_loss(logits, one_hot, gamma=2.0, alpha=0.25, reduction="none")


def _deformable_convolution(
    features: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor
) -> Tensor:
    from mmcv.ops import modulated_deform_conv2d

    return modulated_deform_conv2d(features, offsets, mask.sigmoid(), weight, None, 1, 1, 1, 1, 1)


SHAPES = ((50, 84), (25, 42), (13, 21), (7, 11))


def _deformable_attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    shapes = torch.tensor(SHAPES, device=value.device)
    weights = weights.flatten(-2).softmax(-1).view_as(weights)
    locations = locations.sigmoid()
    if not value.is_cuda:
        return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def _tokens() -> int:
    return sum(height * width for height, width in SHAPES)


OPERATORS: dict[str, Operator] = {
    "NMS": (lambda: [boxes(3000), torch.rand(3000)], _nms),
    "NMS by class": (
        lambda: [boxes(3000), torch.rand(3000), torch.randint(80, (3000,))],
        _batched_nms,
    ),
    "RoIAlign": (lambda: [feature_map(), rois(200)], _roi_align),
    "sigmoid focal loss": (
        lambda: [torch.randn(5000, 80), torch.randint(81, (5000,))],
        _focal_loss,
    ),
    "modulated deformable convolution": (
        lambda: [
            feature_map(),
            torch.randn(2, 18, 50, 84),
            torch.randn(2, 9, 50, 84),
            torch.randn(32, 32, 3, 3) / 17,
        ],
        _deformable_convolution,
    ),
    "multi-scale deformable attention": (
        lambda: [
            torch.randn(2, _tokens(), 8, 32),
            torch.randn(2, 300, 8, 4, 4, 2),
            torch.randn(2, 300, 8, 4, 4),
        ],
        _deformable_attention,
    ),
}


def result_and_gradients(
    operator: Callable[..., Tensor], inputs: Tensors, device: str
) -> tuple[Tensors, Tensors]:
    """An operator's result, and the gradients of those inputs that it has any for."""
    given = [
        each.to(device).requires_grad_() if each.is_floating_point() else each.to(device)
        for each in inputs
    ]
    result = operator(*given)
    if not result.requires_grad:
        return [result], []
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    (result * weights.to(device)).sum().backward()
    return [result.detach()], [each.grad for each in given if each.grad is not None]


def check_operators(device: str) -> list[dict[str, Any]]:
    """Compare every operator of a device with the CPU's.

    Args:
        device: Such as ``'cuda'``.

    Returns:
        A row for each, with errors, tolerances and the verdict.
    """
    rows = []
    for name, (make, operator) in OPERATORS.items():
        torch.manual_seed(0)
        inputs = make()
        try:
            expected = result_and_gradients(operator, inputs, "cpu")
            found = result_and_gradients(operator, inputs, device)
            if found[0][0].shape != expected[0][0].shape:
                shapes = [tuple(each[0][0].shape) for each in (found, expected)]
                raise ValueError(f"{shapes[0]} results where the CPU has {shapes[1]}")
            rows.append(verdict(name, "mmcv, against the CPU", found, expected, EXACT))
        except Exception as error:  # an operator that fails must not hide the others
            rows.append({"model": name, "what": "mmcv", "error": repr(error)[:300]})
    return rows
