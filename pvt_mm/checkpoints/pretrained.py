"""From a checkpoint into a backbone, strictly: the only place that touches a module."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..loaders import register_loaders
from .errors import CheckpointError, DownloadError
from .key_mapping import map_state_dict, recognise_arch
from .schemes import FROM_SCRATCH

if TYPE_CHECKING:
    from ..backbones import PVT, PVTv2

__all__ = ["load_pretrained"]

_STAGE = re.compile(r"(?:patch_embed|pos_embed|block|norm)(\d)")
_SHOWN = 10


def load_pretrained(backbone: PVT | PVTv2, checkpoint: str, prefix: str | None = None) -> None:
    """Load a PVT's weights, all of them or none.

    Args:
        backbone: Backbone to fill.
        checkpoint: A path, a URL, ``pvt://NAME`` or whatever else mmengine can load.
        prefix: What the backbone's keys begin with in the file; found by itself if None.

    Raises:
        CheckpointError: If the file cannot be had, holds no PVT, or if a tensor is missing,
            unexpected, of another shape or type, or not finite. The backbone is then unchanged.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    register_loaders()
    try:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    except DownloadError as error:
        hint = "" if FROM_SCRATCH in str(error) else f"; {FROM_SCRATCH}"
        raise DownloadError(f"{error}{hint}") from error

    try:
        state, unused = map_state_dict(loaded, prefix)
        state, later = _without_later_stages(state, backbone.num_stages)
        resized = _resize_pos_embeds(state, backbone)
        _check(state, backbone)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error

    backbone.load_state_dict(state, strict=True)
    name = type(backbone).__name__
    message = f"{name}: loaded all {len(state)} tensors from {checkpoint}"
    if unused or later:
        message += f"; unused: {_summary([*unused, *later])}"
    print_log("; ".join([message, *resized]), logger="current")


def _without_later_stages(
    state: dict[str, Tensor], num_stages: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Leave out the stages that the backbone has not built."""
    later = [key for key in state if (match := _STAGE.match(key)) and int(match[1]) > num_stages]
    return {key: value for key, value in state.items() if key not in set(later)}, later


def _resize_pos_embeds(state: dict[str, Tensor], backbone: PVT | PVTv2) -> list[str]:
    """Resize v1's position embeddings to the backbone's grids, in place; say what was done."""
    from ..backbones.embed import resize_pos_embed

    notes = []
    for stage, grid in enumerate(getattr(backbone, "pos_grids", ())[: backbone.num_stages]):
        key = f"pos_embed{stage + 1}"
        embed, wanted = state.get(key), getattr(backbone, key)
        if embed is None or embed.ndim != 3 or embed.shape[1] == wanted.shape[1]:
            continue
        entries = wanted.shape[1] - math.prod(grid)  # 1 for the class token, else 0
        side = math.isqrt(embed.shape[1] - entries)
        if side**2 + entries != embed.shape[1] or not embed.is_floating_point():
            continue  # no square grid: left to the check of shapes
        tokens = resize_pos_embed(embed[:, entries:].float(), (side, side), grid)
        state[key] = torch.cat([embed[:, :entries].float(), tokens], dim=1)
        notes.append(f"{key} resized from {side}x{side} to {grid[0]}x{grid[1]}")
    return notes


def _check(state: dict[str, Tensor], backbone: PVT | PVTv2) -> None:
    """Compare names, shapes, types and values, and list all that is wrong."""
    expected = backbone.state_dict()
    problems = _listing("missing", (key for key in expected if key not in state))
    problems += _listing("unexpected", (key for key in state if key not in expected))
    common = [key for key in state if key in expected]
    problems += _listing(
        "wrong shape",
        (
            f"{key} {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
            for key in common
            if state[key].shape != expected[key].shape
        ),
    )
    problems += _listing(
        "not floating point",
        (f"{key} {state[key].dtype}" for key in common if not state[key].is_floating_point()),
    )
    if problems:
        looks = recognise_arch(state)
        hint = f" (the file looks like {looks})" if looks else ""
        raise CheckpointError(f"does not fit {_name_of(backbone)}{hint}: {'; '.join(problems)}")
    if broken := _listing("values that are not finite", _not_finite(state)):
        raise CheckpointError(f"{broken[0]}; the training that wrote it has diverged")


def _not_finite(state: dict[str, Tensor]) -> Iterable[str]:
    return (key for key, value in state.items() if not torch.isfinite(value).all())


def _name_of(backbone: PVT | PVTv2) -> str:
    from ..backbones.archs import ARCHS

    name = backbone.arch.name
    return name if name in ARCHS else f"this {type(backbone).__name__}"


def _listing(title: str, entries: Iterable[str]) -> list[str]:
    """Write ``title (number): entry, entry, ...``, or nothing if there are none."""
    entries = list(entries)
    if not entries:
        return []
    more = ", ..." if len(entries) > _SHOWN else ""
    return [f"{title} ({len(entries)}): {', '.join(entries[:_SHOWN])}{more}"]


def _summary(keys: list[str]) -> str:
    """Name keys, those of a large part together: ``neck.* (16), head.bias, head.weight``."""
    parts = []
    for part, group in groupby(sorted(keys), key=lambda key: key.split(".")[0]):
        members = list(group)
        parts += members if len(members) <= 2 else [f"{part}.* ({len(members)})"]
    return ", ".join(parts)
