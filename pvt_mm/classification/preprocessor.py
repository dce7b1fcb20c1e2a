"""What happens to a batch before the network: normalisation and, in training, mixing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from mmengine.model import ImgDataPreprocessor
from torch import Tensor

from pvt_mm.backbones.arguments import check_rate
from pvt_mm.classification.torchvision import transforms_v2
from pvt_mm.registry import MODELS

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ClsDataPreprocessor"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class ClsDataPreprocessor(ImgDataPreprocessor):
    """Normalise a batch of images on the device; in training also erase and mix.

    torchvision is needed from the first training batch on that is erased or mixed: testing and
    exporting a config that trains with it do without.

    Args:
        mean: Mean of the channels R, G, B, in pixel values.
        std: Standard deviation of the channels, in pixel values.
        erasing: Probability that a rectangle of an image is replaced by noise.
        mixup: Alpha of mixup's Beta distribution; 0 for none.
        cutmix: Alpha of CutMix's. With both, each batch takes one of the two.
        num_classes: Classes ``K``; needed by ``mixup`` and ``cutmix``, which turn ``(B,)`` labels
            into ``(B, K)`` probabilities.

    Raises:
        ValueError: If an argument is out of range.

    Reference: DeiT, arXiv:2012.12877; the operations are torchvision's.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(mean, std, non_blocking=True)
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixup and cutmix must be at least 0, got {mixup} and {cutmix}")
        if (mixup or cutmix) and not num_classes:
            raise ValueError("mixup and cutmix need num_classes")
        self.erasing = check_rate("erasing", erasing)
        self.alphas = {"MixUp": mixup, "CutMix": cutmix}
        self.num_classes = num_classes

    @cached_property
    def erase(self) -> Callable | None:
        """What replaces a rectangle of an image by noise, now and then."""
        return transforms_v2().RandomErasing(self.erasing, value="random") if self.erasing else None

    @cached_property
    def mix(self) -> Callable | None:
        """What mixes a batch: one of the two kinds at random if there are both."""
        mixers = [
            getattr(transforms_v2(), kind)(alpha=alpha, num_classes=self.num_classes)
            for kind, alpha in self.alphas.items()
            if alpha
        ]
        return transforms_v2().RandomChoice(mixers) if len(mixers) > 1 else next(iter(mixers), None)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a collated batch.

        Args:
            data: ``inputs``, ``(B, 3, H, W)`` of pixel values, ``labels``, ``(B,)``, and whatever
                else the classifier takes.
            training: Whether to erase and mix.

        Returns:
            The same, on the device, ``inputs`` normalised; ``labels`` are ``(B, K)`` if mixed.

        Raises:
            UserError: If a training batch is to be erased or mixed without torchvision.
        """
        data = super().forward(data)
        data.pop("data_samples", None)
        if training and self.erase is not None:
            images: Tensor = data["inputs"]
            for index, image in enumerate(images):  # each its own rectangle, or none
                images[index] = self.erase(image)
        if training and self.mix is not None:
            data["inputs"], data["labels"] = self.mix(data["inputs"], data["labels"])
        return data
