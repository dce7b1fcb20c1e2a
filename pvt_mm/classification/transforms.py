"""From an image file to the pixels that a classifier sees, in training and in testing."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pvt_mm.backbones.arguments import check_int, check_rate
from pvt_mm.classification.torchvision import transforms_v2
from pvt_mm.registry import TRANSFORMS

__all__ = ["CenterCrop", "DeiTAugment", "read_rgb"]

_BINS = 31  # torchvision's scale of strengths goes from 0 to 30, DeiT's from 0 to 10
_GREY = (124, 116, 104)  # ImageNet's mean, where a rotation or shift leaves nothing


def read_rgb(path: str | os.PathLike) -> Image.Image:
    """Read an image file.

    Raises:
        ValueError: If it cannot be read; the message names the file and says why.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "it is a folder"
    except Image.UnidentifiedImageError:
        reason = "it is no image of a known format"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(f"{path} cannot be read: {reason}")


@TRANSFORMS.register_module()
class CenterCrop:
    """The papers' test transform: shorter side to ``size / crop_ratio``, then the centre.

    Args:
        size: Side of the crop, in pixels.
        crop_ratio: Side of the crop as a share of the resized image's shorter side.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, size: int = 224, crop_ratio: float = 0.875) -> None:
        self.size = check_int("size", size, 1)
        if not 0 < crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be above 0 and at most 1, got {crop_ratio}")
        self.resized = int(size / crop_ratio)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Turn ``img_path`` and ``gt_label`` into ``inputs``, ``labels`` and ``img_path``."""
        return _pack(results, self.crop(read_rgb(results["img_path"])))

    def crop(self, image: Image.Image) -> Image.Image:
        """Resize, bicubically, and crop one image."""
        width, height = image.size
        short = min(width, height)
        width, height = (int(self.resized * side / short) for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


@TRANSFORMS.register_module()
class DeiTAugment:
    """The per-image part of DeiT's augmentation, with torchvision's operations.

    A random resized crop, a flip, and ``num_ops`` random operations, each applied with probability
    ``op_prob`` at a strength drawn from a normal distribution: ``rand-m9-mstd0.5-inc1`` in the
    notation of the official recipe. torchvision's set of operations has the identity instead of
    inversion and added solarisation. The recipe's colour jitter of 0.4 has no place here: where
    random operations are used, it is not, in the official code either.

    Args:
        size: Side of the output, in pixels.
        scale: Smallest and largest share of the image's area that the crop covers.
        flip: Probability of a horizontal flip.
        num_ops: Random operations on an image; 0 for none.
        op_prob: Probability that such an operation is applied.
        magnitude: Mean strength, from 0 to 10.
        magnitude_std: Standard deviation of the strength.

    Raises:
        UserError: If torchvision is not installed.
        ValueError: If an argument is out of range.

    Reference: DeiT, arXiv:2012.12877; RandAugment, arXiv:1909.13719.
    """

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.08, 1.0),
        flip: float = 0.5,
        num_ops: int = 2,
        op_prob: float = 0.5,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
    ) -> None:
        check_int("size", size, 1)
        check_int("num_ops", num_ops, 0)
        check_rate("flip", flip)
        check_rate("op_prob", op_prob)
        if not 0 <= magnitude <= 10 or magnitude_std < 0:
            raise ValueError(
                "magnitude must be from 0 to 10 and magnitude_std at least 0, got "
                f"{magnitude} and {magnitude_std}"
            )
        v2 = transforms_v2()
        bicubic = v2.InterpolationMode.BICUBIC
        strengths = magnitude_weights(magnitude, magnitude_std)
        choices = [
            v2.RandAugment(1, strength, _BINS, interpolation=bicubic, fill=_GREY)
            for strength in strengths
        ]
        operation = v2.RandomChoice(choices, p=list(strengths.values()))
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, tuple(scale), interpolation=bicubic),
                v2.RandomHorizontalFlip(flip),
                *(v2.RandomApply([operation], op_prob) for _ in range(num_ops)),
            ]
        )

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Turn ``img_path`` and ``gt_label`` into ``inputs``, ``labels`` and ``img_path``."""
        return _pack(results, self.transform(read_rgb(results["img_path"])))


def magnitude_weights(magnitude: float, std: float) -> dict[int, float]:
    """Spread a normal distribution of strengths, cut off at 0 and 10, over torchvision's bins.

    Returns:
        Probability by bin; bins that take less than one draw in 10,000 are left out.
    """
    steps = (_BINS - 1) / 10
    mean, std = magnitude * steps, max(std * steps, 1e-6)

    def below(edge: float) -> float:
        return 0.5 * (1 + math.erf((edge - mean) / (std * math.sqrt(2))))

    weights = {}
    for strength in range(_BINS):
        low = below(strength - 0.5) if strength else 0.0
        high = below(strength + 0.5) if strength < _BINS - 1 else 1.0
        if high - low > 1e-4:
            weights[strength] = high - low
    total = sum(weights.values())
    return {strength: weight / total for strength, weight in weights.items()}


def to_pixels(image: Image.Image) -> Tensor:
    """Return an RGB image as ``(3, H, W)`` uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _pack(results: dict[str, Any], image: Image.Image) -> dict[str, Any]:
    return {
        "inputs": to_pixels(image),
        "labels": int(results["gt_label"]),
        "img_path": str(results["img_path"]),
    }
