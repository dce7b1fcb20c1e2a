"""RetinaNet and Mask R-CNN as one function of tensors, boxes decoded and suppressed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvt_mm.export.boxes import DROPPED, best_boxes, candidates, clip
from pvt_mm.export.operators import align_rois

__all__ = ["MaskRCNNGraph", "RetinaNetGraph"]

# Shape legend: B batch, D = max_per_img detections, P proposals, K classes, S side of a mask.

ABSENT = -1  # class of a detection that an image has not
ANY_SCORE = -0.5  # above DROPPED, below every probability


class RetinaNetGraph(nn.Module):
    """Detections of a RetinaNet.

    Args:
        model: MMDetection's detector, in eval mode.

    Shape:
        images: ``(B, 3, h, w)``, normalised and padded.
        image_sizes: ``(B, 2)``, int64, height and width of each image before it was padded.
        returns: ``boxes (B, D, 4)``, x1, y1, x2, y2 in pixels of the input; ``scores (B, D)``,
            best first, 0 where an image has fewer; ``labels (B, D)``, int64, there -1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect."""
        head = self.model.bbox_head
        cfg = head.test_cfg
        maps = head(self.model.extract_feat(images))
        boxes, scores, labels, _ = candidates(head, *maps, image_sizes, cfg)
        return _detections(*best_boxes(boxes, scores, labels, cfg, cfg["score_thr"]), labels)


class MaskRCNNGraph(nn.Module):
    """Detections of a Mask R-CNN, or of a Faster R-CNN, which has no masks.

    Args:
        model: MMDetection's detector, in eval mode.

    Shape:
        images: ``(B, 3, h, w)``, normalised and padded.
        image_sizes: ``(B, 2)``, int64, height and width of each image before it was padded.
        returns: As :class:`RetinaNetGraph`, and ``masks (B, D, S, S)``, probabilities over the
            box, 0 where an image has fewer.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect."""
        feats = self.model.extract_feat(images)
        proposals, valid = self._propose(feats, image_sizes)
        boxes, scores, labels = self._classify(feats, proposals, valid, image_sizes)
        if not self.model.roi_head.with_mask:
            return boxes, scores, labels
        return boxes, scores, labels, self._segment(feats, boxes, labels)

    def _propose(self, feats: tuple[Tensor, ...], image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ``(B, P, 4)`` boxes of the RPN, and which of them it found, ``(B, P)``."""
        head = self.model.rpn_head
        cfg = head.test_cfg
        boxes, scores, _, levels = candidates(head, *head(feats), image_sizes, cfg)
        boxes, scores, _ = best_boxes(boxes, scores, levels, cfg, ANY_SCORE)
        return boxes, scores > DROPPED

    def _classify(
        self, feats: tuple[Tensor, ...], proposals: Tensor, valid: Tensor, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        head, cfg = self.model.roi_head.bbox_head, self.model.roi_head.test_cfg
        rois = _as_rois(proposals)
        crops = _crop(self.model.roi_head.bbox_roi_extractor, feats, rois, valid.flatten())
        logits, deltas = head(crops)
        if head.reg_class_agnostic:
            deltas = deltas.repeat(1, head.num_classes)
        batch, count = valid.shape
        decoded = head.bbox_coder.decode(
            rois[:, 1:].repeat_interleave(head.num_classes, 0), deltas.reshape(-1, 4)
        )
        boxes = clip(decoded.reshape(batch, count * head.num_classes, 4), image_sizes)
        scores = logits.softmax(1)[:, :-1].reshape(batch, count, head.num_classes)
        scores = torch.where(valid[..., None], scores, DROPPED).flatten(1)
        labels = torch.arange(head.num_classes, device=boxes.device).repeat(count)
        found = best_boxes(boxes, scores, labels, cfg, cfg["score_thr"])
        return _detections(*found, labels.expand(batch, -1))

    def _segment(self, feats: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Predict ``(B, D, S, S)`` masks, computed for the detections that there are."""
        roi_head, labels = self.model.roi_head, labels.flatten()
        there = labels != ABSENT
        # One at least: not every runtime convolves an empty batch.
        index = torch.cat([torch.ones_like(there[:1]), there[1:]]).nonzero()[:, 0]  # (n,)
        torch._check(index.shape[0] >= 1)
        crops = _crop(roi_head.mask_roi_extractor, feats, _as_rois(boxes)[index])
        masks = roi_head.mask_head(crops).sigmoid()  # (n, K, S, S)
        if not roi_head.mask_head.class_agnostic:
            own = labels[index].clamp(min=0)[:, None, None, None]
            masks = masks.gather(1, own.expand(-1, 1, *masks.shape[2:]))
        masks = masks[:, 0] * there[index][:, None, None]
        every = masks.new_zeros(there.shape[0], *masks.shape[1:])
        return every.index_copy(0, index, masks).unflatten(0, boxes.shape[:2])


def _detections(
    boxes: Tensor, scores: Tensor, index: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    there = scores > DROPPED
    labels = torch.where(there, labels.gather(1, index), ABSENT)
    return boxes * there[..., None], scores.clamp(min=0), labels


def _as_rois(boxes: Tensor) -> Tensor:
    """Put the image's index before ``(B, n, 4)`` boxes and return them as ``(B * n, 5)``."""
    batch, count, _ = boxes.shape
    image = torch.arange(batch, dtype=boxes.dtype, device=boxes.device)
    image = image[:, None, None].expand(-1, count, 1)
    return torch.cat([image, boxes], 2).flatten(0, 1)


def _crop(
    extractor: nn.Module, feats: tuple[Tensor, ...], rois: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Run the extractor of one level for each region; regions that are not valid stay zero."""
    layers = extractor.roi_layers
    levels = extractor.map_roi_levels(rois, len(layers))
    if valid is not None:
        levels = torch.where(valid, levels, -1)
    return align_rois(
        list(feats[: len(layers)]),
        rois,
        levels,
        [layer.spatial_scale for layer in layers],
        layers[0].output_size[0],
        layers[0].sampling_ratio,
    )
