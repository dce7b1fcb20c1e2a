"""Semantic FPN, the classifier and the backbone alone, as functions of an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BackboneGraph", "ClassifierGraph", "SemanticGraph"]

# Shape legend: B batch, (h, w) input, K classes.


class SemanticGraph(nn.Module):
    """Labels, or logits, at the size of the input.

    Args:
        model: MMSegmentation's segmentor, in eval mode.
        logits: Whether to return logits; the class of the highest otherwise.

    Shape:
        images: ``(B, 3, h, w)``, normalised and padded.
        returns: ``labels (B, h, w)``, int64, or ``logits (B, K, h, w)``.
    """

    def __init__(self, model: nn.Module, logits: bool = False) -> None:
        super().__init__()
        self.model, self.logits = model, logits

    def forward(self, images: Tensor) -> Tensor:
        """Segment."""
        head = self.model.decode_head
        logits = F.interpolate(
            head(self.model.extract_feat(images)),
            size=images.shape[2:],
            mode="bilinear",
            align_corners=head.align_corners,
        )
        return logits if self.logits else logits.argmax(1)


class BackboneGraph(nn.Module):
    """The feature maps of a backbone.

    Args:
        backbone: A :class:`~pvt_mm.PVT` or :class:`~pvt_mm.PVTv2`, in eval mode.

    Shape:
        images: ``(B, 3, h, w)``, normalised.
        returns: A map of each of its ``out_indices``.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.model = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract the maps."""
        return self.model(images)


class ClassifierGraph(nn.Module):
    """The logits of a classifier.

    Args:
        model: A :class:`~pvt_mm.classification.PVTClassifier`, in eval mode.

    Shape:
        images: ``(B, 3, h, w)``, normalised.
        returns: ``logits (B, K)``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Classify."""
        return self.model(images)
