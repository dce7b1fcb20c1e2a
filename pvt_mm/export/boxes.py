"""From the maps of an anchor head, or from scored boxes, to the best boxes of each image.

MMDetection drops candidates as it goes, image by image. Here all shapes are fixed by the test
settings, so that one graph serves any batch: what MMDetection drops has the score ``DROPPED``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvt_mm.export.operators import suppress

__all__ = ["DROPPED", "candidates", "clip", "best_boxes"]

# Shape legend: B batch, L levels, A anchors of a level, K classes, n candidates of an image.

DROPPED = -1.0


def candidates(
    head: nn.Module,
    cls_maps: Sequence[Tensor],
    box_maps: Sequence[Tensor],
    image_sizes: Tensor,
    cfg: Mapping[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decode the best ``nms_pre`` pairs of anchor and class of each level.

    Args:
        head: An anchor head of MMDetection.
        cls_maps: Of each level ``(B, anchors * K, h, w)``.
        box_maps: Of each level ``(B, anchors * 4, h, w)``.
        image_sizes: ``(B, 2)``, height and width, to which boxes are clipped.
        cfg: The head's test settings.

    Returns:
        Boxes ``(B, n, 4)``, scores ``(B, n)``, classes ``(B, n)`` and levels ``(n,)``, where
        ``n`` is ``L * nms_pre``.
    """
    priors = head.prior_generator.grid_priors(
        [(one.shape[2], one.shape[3]) for one in cls_maps],
        dtype=cls_maps[0].dtype,
        device=cls_maps[0].device,
    )
    # Not read off the logits: recorded, their shape would be an expression.
    num_classes = head.cls_out_channels - (0 if head.use_sigmoid_cls else 1)
    boxes, scores, classes, levels = [], [], [], []
    for level, (cls_map, box_map, anchors) in enumerate(
        zip(cls_maps, box_maps, priors, strict=True)
    ):
        logits = cls_map.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, head.cls_out_channels))
        deltas = box_map.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))  # (B, A, 4)
        # The last channel of a softmax is the background's.
        found = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(2)[..., :-1]
        best, index = _top(found.flatten(1), cfg["nms_pre"])
        anchor = index // num_classes
        deltas = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        decoded = head.bbox_coder.decode(anchors[anchor].flatten(0, 1), deltas.flatten(0, 1))
        boxes.append(decoded.unflatten(0, (-1, cfg["nms_pre"])))
        scores.append(best)
        classes.append(index % num_classes)
        levels.append(torch.full((cfg["nms_pre"],), level, device=index.device))
    kept_boxes = clip(torch.cat(boxes, 1), image_sizes)
    kept_scores = torch.cat(scores, 1)
    if cfg.get("min_bbox_size", -1) >= 0:
        sides = kept_boxes[..., 2:] - kept_boxes[..., :2]
        large = (sides > cfg["min_bbox_size"]).all(2)
        kept_scores = torch.where(large, kept_scores, DROPPED)
    return kept_boxes, kept_scores, torch.cat(classes, 1), torch.cat(levels)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clip ``(B, n, 4)`` boxes to ``(B, 2)`` heights and widths."""
    bounds = image_sizes.to(boxes.dtype)[:, None, [1, 0, 1, 0]]
    return torch.minimum(boxes.clamp(min=0), bounds)


def best_boxes(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    cfg: Mapping[str, Any],
    score_threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress overlapping boxes of a group and take the best of each image.

    Args:
        boxes: ``(B, n, 4)``.
        scores: ``(B, n)``.
        groups: Class or level of each box, ``(B, n)`` or ``(n,)``: only boxes of the same group
            suppress each other.
        cfg: Test settings with ``nms`` and ``max_per_img``.
        score_threshold: Boxes whose score is not above are left out.

    Returns:
        Boxes ``(B, max_per_img, 4)``, scores, ``DROPPED`` where an image has fewer boxes, and
        indices into the ``n`` candidates; best first.
    """
    # As in mmcv: groups are moved apart, so that one suppression serves all.
    distance = boxes.amax((1, 2))[:, None] + 1
    apart = boxes
    if not cfg["nms"].get("class_agnostic", False):
        apart = boxes + (groups.to(boxes.dtype) * distance)[..., None]
    limit = cfg["max_per_img"]
    kept = suppress(apart, scores, cfg["nms"]["iou_threshold"], score_threshold, limit)
    top, index = _top(torch.where(kept > 0, scores, DROPPED), limit)
    return boxes.gather(1, index[..., None].expand(-1, -1, 4)), top, index


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Take the best ``count`` of ``(B, n)``, ``DROPPED`` where there are fewer."""
    padded = torch.cat([scores, scores.new_full((scores.shape[0], count), DROPPED)], 1)
    values, index = padded.topk(count)
    return values, index.clamp(max=scores.shape[1] - 1)
