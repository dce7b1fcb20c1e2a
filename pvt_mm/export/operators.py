"""Non-maximum suppression and RoIAlign with shapes that do not depend on the data.

As operators of their own they pass through ``torch.export`` whole, and become ONNX's operators:
see :mod:`pvt_mm.export.onnx_operators`. In PyTorch they run mmcv's.
"""

import torch
from torch import Tensor

__all__ = ["align_rois", "suppress"]

# Shape legend: B batch, N boxes of an image, R regions of the whole batch, C channels.
# No `from __future__ import annotations` here: torch derives the schemas from the annotations.


@torch.library.custom_op("pvt_mm::suppress", mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_kept: int
) -> Tensor:
    """Mark the boxes of each image that survive non-maximum suppression.

    Args:
        boxes: ``(B, N, 4)``, x1, y1, x2, y2.
        scores: ``(B, N)``.
        iou_threshold: A box goes if it overlaps a better one by more.
        score_threshold: A box goes if its score is not above.
        max_kept: The best so many of an image stay at most.

    Returns:
        ``(B, N)`` float: 1 for what stays, 0 for the rest.
    """
    from mmcv.ops import nms

    kept = torch.zeros_like(scores)
    for image in range(len(boxes)):
        valid = (scores[image] > score_threshold).nonzero()[:, 0]
        if len(valid):
            _, best = nms(boxes[image, valid], scores[image, valid], iou_threshold)
            kept[image, valid[best[:max_kept]]] = 1
    return kept


@suppress.register_fake
def _(boxes, scores, iou_threshold, score_threshold, max_kept):
    return torch.empty_like(scores)


@torch.library.custom_op("pvt_mm::align_rois", mutates_args=())
def align_rois(
    feats: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    size: int,
    sampling_ratio: int,
) -> Tensor:
    """Crop regions out of the maps of a pyramid, each out of its own level.

    Args:
        feats: Maps, ``(B, C, h, w)`` each.
        rois: ``(R, 5)``: the image's index, x1, y1, x2, y2 in pixels of the image.
        levels: ``(R,)``, index into ``feats``; -1 leaves a region zero.
        scales: Of each map: its pixels for one of the image.
        size: Side of a crop.
        sampling_ratio: Samples along a side of a bin; 0 for as many as it has pixels.

    Returns:
        ``(R, C, size, size)``.
    """
    from mmcv.ops import roi_align

    crops = feats[0].new_zeros(len(rois), feats[0].shape[1], size, size)
    for level, (feat, scale) in enumerate(zip(feats, scales, strict=True)):
        here = (levels == level).nonzero()[:, 0]
        if len(here):
            # mmcv's operator reads memory as NCHW, whatever the strides.
            crops[here] = roi_align(
                feat.contiguous(), rois[here], (size, size), scale, sampling_ratio, "avg", True
            )
    return crops


@align_rois.register_fake
def _(feats, rois, levels, scales, size, sampling_ratio):
    return feats[0].new_empty(rois.shape[0], feats[0].shape[1], size, size)
