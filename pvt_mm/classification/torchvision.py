"""torchvision, an optional dependency: only training's augmentation needs it."""

from __future__ import annotations

from functools import cache
from types import ModuleType

__all__ = ["transforms_v2"]


@cache
def transforms_v2() -> ModuleType:
    """Import ``torchvision.transforms.v2``.

    Raises:
        UserError: If torchvision is not installed, or is not made for this torch.
    """
    try:
        from torchvision.transforms import v2
    except ModuleNotFoundError as error:
        reason = f"is not installed ({error})"
    except (ImportError, RuntimeError) as error:  # built for another torch
        reason = f"cannot be imported ({str(error).splitlines()[0]})"
    else:
        return v2
    from pvt_mm.errors import UserError

    raise UserError(
        f"training a classifier with augmentation needs torchvision, which {reason}: "
        "python -m pip install torchvision; to train without, use pvt_mm.CenterCrop in the "
        "pipeline and no erasing, mixup or cutmix in model.data_preprocessor"
    )
