"""A segmentor's loss with class weights where pixels are ignored, which mmseg's own cannot take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.registry import MODELS

__all__ = ["WeightedCrossEntropyLoss"]


@MODELS.register_module()
class WeightedCrossEntropyLoss(nn.Module):
    """The mean cross entropy of the pixels that count, each weighted by its class.

    Args:
        class_weight: A weight for each class, in the order of the classes.
        loss_weight: A factor of the whole.
        loss_name: Its name in the log; it counts only if it begins with ``loss_``.
        use_sigmoid: False, which mmseg's configs say of the loss that this one takes the place of.

    Shape:
        logits: ``(B, K, h, w)``.
        labels: ``(B, h, w)``, int64.
        returns: A scalar.

    Raises:
        ValueError: If ``use_sigmoid``.
    """

    def __init__(
        self,
        class_weight: Sequence[float],
        loss_weight: float = 1.0,
        loss_name: str = "loss_ce",
        use_sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid:
            raise ValueError("WeightedCrossEntropyLoss is a softmax's: use_sigmoid must be False")
        self.class_weight = tuple(class_weight)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        **kwargs: object,
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: The scores of all classes.
            labels: The classes.
            weight: A factor for each pixel, as mmseg's samplers give it, ``(B, h, w)``.
            ignore_index: The label of pixels that do not count.
            kwargs: What other losses of mmseg take.
        """
        weights = logits.new_tensor(self.class_weight)
        loss = F.cross_entropy(logits, labels, weights, reduction="none", ignore_index=ignore_index)
        counts = labels != ignore_index
        total = weights[torch.where(counts, labels, 0)][counts].sum()
        if weight is not None:
            loss = loss * weight
        # No pixel that counts: a loss of 0, which still has a gradient.
        return self.loss_weight * loss.sum() / total.clamp(min=torch.finfo(loss.dtype).tiny)
