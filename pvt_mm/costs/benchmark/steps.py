"""One step of a backbone, the same for every contender."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pvt_mm.costs.benchmark.case import DTYPES, Case

__all__ = ["autocast", "backbone_step", "make_image", "mean_of_maps"]


def autocast(case: Case) -> torch.autocast:
    """The autocast of the case; it does nothing in float32."""
    enabled = case.dtype != "float32"
    dtype = DTYPES[case.dtype] if enabled else None
    return torch.autocast(case.device, dtype=dtype, enabled=enabled)


def make_image(case: Case) -> Tensor:
    """A normalised image of noise, ``(batch, 3, H, W)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(case.batch, 3, *case.shape, generator=generator).to(case.device)


def mean_of_maps(maps: Sequence[Tensor]) -> Tensor:
    """Sum over the maps of their means: a loss that reads every output once."""
    return torch.stack([each.float().mean() for each in maps]).sum()


def backbone_step(
    module: nn.Module, image: Tensor, case: Case, *, fused: bool = False
) -> Callable[[], Tensor]:
    """Make the call that is timed.

    Args:
        module: From ``(B, 3, H, W)`` to its maps; put into the mode that the case asks for.
        image: The input.
        case: What to do.
        fused: Whether AdamW is torch's fused one.

    Returns:
        A function that does one step and returns the :func:`mean_of_maps`.
    """
    if case.mode == "inference":
        module.eval()

        def infer() -> Tensor:
            with torch.inference_mode(), autocast(case):
                return mean_of_maps(module(image))

        return infer

    module.train()
    optimizer = None
    if case.mode == "train":
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=fused or None)

    def train() -> Tensor:
        with autocast(case):
            loss = mean_of_maps(module(image))
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        module.zero_grad(set_to_none=True)
        return loss.detach()

    return train
