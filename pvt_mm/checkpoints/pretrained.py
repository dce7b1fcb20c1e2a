"""From a checkpoint into a backbone, strictly: the only place that touches a module."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from pvt_mm.archs import ARCHS
from pvt_mm.checkpoints.key_mapping import locate, map_classifier, to_ours
from pvt_mm.checkpoints.layouts import CLASSIFIER
from pvt_mm.checkpoints.recognise import describe, traits_of
from pvt_mm.checkpoints.schemes import FROM_SCRATCH, read_once
from pvt_mm.errors import CheckpointError, DownloadError
from pvt_mm.tokens import resize_pos_embed
from pvt_mm.wording import public

__all__ = [
    "adapt_state_dict",
    "fill_pretrained",
    "load_pretrained",
    "not_finite",
    "not_floating",
    "summary",
]

_STAGE = re.compile(r"(?:patch_embed|pos_embed|block|norm)(\d)")
_HEAD = ("head.weight", "head.bias")
_SHOWN = 10


def load_pretrained(module: nn.Module, checkpoint: str, prefix: str | None = None) -> None:
    """Load a PVT's weights, all of them or none.

    Args:
        module: Backbone to fill, or a classifier with the official names. Of a classifier, a head
            with another number of classes than the file's stays as it is.
        checkpoint: A path, a URL, ``pvt://NAME``, ``timm://NAME``, ``hf://ORG/NAME`` or whatever
            else mmengine can load, in any layout that :mod:`pvt_mm.checkpoints.layouts` knows.
        prefix: What the PVT's keys begin with in the file; found by itself if None.

    Raises:
        CheckpointError: If the file cannot be had, holds no PVT, or if a tensor is missing,
            unexpected, of another shape or type, or not finite. The module is then unchanged.
    """
    try:
        loaded = read_once(checkpoint)
    except DownloadError as error:
        hint = "" if FROM_SCRATCH in str(error) else f"; {FROM_SCRATCH}"
        raise DownloadError(f"{error}{hint}") from error
    fill_pretrained(module, loaded, checkpoint, prefix)


def fill_pretrained(module: nn.Module, loaded: Any, source: str, prefix: str | None = None) -> None:
    """Fill a module with what a checkpoint file holds; else as :func:`load_pretrained`.

    Args:
        module: Backbone or classifier.
        loaded: What the file holds.
        source: The file's name, for messages.
        prefix: What the PVT's keys begin with in the file; found by itself if None.
    """
    expected = module.state_dict()
    try:
        state, unused = map_classifier(loaded, prefix)
        extra = [key for key in CLASSIFIER if key in state and key not in expected]
        extra += _later_stages(state, getattr(module, "num_stages", 4))
        state = {key: value for key, value in state.items() if key not in extra}
        notes = _resize_pos_embeds(state, module) + _leave_other_head(state, expected)
        _check(state, expected, _name_of(module))
    except CheckpointError as error:
        raise CheckpointError(f"{public(source)}: {error}") from error

    # Copied into the parameters, not put in their place (assign=True): an optimizer, a wrapper or
    # tied weights may hold them already, and the file's type and device need not be theirs.
    module.load_state_dict(state, strict=False)  # _check was strict
    message = f"{type(module).__name__}: loaded all {len(state)} tensors from {public(source)}"
    if unused or extra:
        message += f"; unused: {summary([*unused, *extra])}"
    print_log("; ".join([message, *notes]), logger="current")


def adapt_state_dict(backbone: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Bring a backbone's part of a larger state dict under our names, in place.

    For :meth:`torch.nn.Module.load_state_dict` of a whole detector: what MMDetection's own PVT or
    another code base named differently is renamed, the rest stays. Position embeddings of another
    grid are resized. A state dict that fits already, or holds no PVT there, is left as it is.

    Args:
        backbone: The module whose keys these are.
        state_dict: State dict, with keys of other modules, too.
        prefix: What the backbone's keys begin with.
    """
    notes = []
    if f"{prefix}patch_embed1.proj.weight" not in state_dict:
        below = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        try:
            found = locate(below, prefix)
        except CheckpointError:
            return  # the strict check after this names what is missing
        state, _ = to_ours(found)
        for key in below:
            del state_dict[key]
        own = backbone.state_dict()
        dropped = {key for key in CLASSIFIER if key not in own}
        state_dict.update({f"{prefix}{k}": v for k, v in state.items() if k not in dropped})
        notes.append(f"renamed from the layout {found.layout.name}")
    embeds = {
        key: state_dict[f"{prefix}{key}"]
        for key in (f"pos_embed{stage}" for stage in range(1, 5))
        if f"{prefix}{key}" in state_dict
    }
    resized = _resize_pos_embeds(embeds, backbone)
    state_dict.update({f"{prefix}{key}": value for key, value in embeds.items()})
    if notes + resized:
        where = f" ({prefix[:-1]})" if prefix else ""
        message = "; ".join(notes + resized)
        print_log(f"{type(backbone).__name__}{where}: {message}", logger="current")


def _later_stages(state: dict[str, Tensor], num_stages: int) -> list[str]:
    """Name what belongs to stages that the backbone has not built."""
    return [key for key in state if (match := _STAGE.match(key)) and int(match[1]) > num_stages]


def _leave_other_head(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Take a head of another class count out of both, in place; say what was done."""
    if any(key not in state or key not in expected for key in _HEAD):
        return []
    found, wanted = (side["head.weight"] for side in (state, expected))
    if found.ndim != 2 or found.shape[0] == wanted.shape[0]:
        return []
    for key in _HEAD:
        del state[key], expected[key]
    return [
        f"head.weight and head.bias are not loaded: the file has {found.shape[0]} classes, "
        f"the model {wanted.shape[0]}"
    ]


def _resize_pos_embeds(state: dict[str, Tensor], backbone: nn.Module) -> list[str]:
    """Resize v1's position embeddings to the backbone's grids, in place; say what was done."""
    notes, own = [], backbone.state_dict()
    built = getattr(backbone, "num_stages", 0)
    for stage, grid in enumerate(getattr(backbone, "pos_grids", ())[:built]):
        key = f"pos_embed{stage + 1}"
        embed, wanted = state.get(key), own[key]
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


def _check(state: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    """Compare names, shapes, types and values, and list all that is wrong."""
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
    problems += _listing("not floating point", not_floating({key: state[key] for key in common}))
    if problems:
        looks = describe(state)
        same = traits_of(state) == traits_of(expected)
        hint = f" (the file {looks})" if looks and not same else ""
        raise CheckpointError(f"does not fit {name}{hint}: {'; '.join(problems)}")
    if broken := _listing("values that are not finite", not_finite(state)):
        raise CheckpointError(f"{broken[0]}; the training that wrote it has diverged")


def not_floating(state: dict[str, Tensor]) -> list[str]:
    """Name the tensors that are no floating-point numbers, with their types."""
    return [f"{k} {value.dtype}" for k, value in state.items() if not value.is_floating_point()]


def not_finite(state: dict[str, Tensor]) -> list[str]:
    """Name the tensors with NaN or infinity in them."""
    return [key for key, value in state.items() if not torch.isfinite(value).all()]


def _name_of(module: nn.Module) -> str:
    name = getattr(getattr(module, "arch", None), "name", None)
    return name if name in ARCHS else f"this {type(module).__name__}"


def _listing(title: str, entries: Iterable[str]) -> list[str]:
    """Write ``title (number): entry, entry, ...``, or nothing if there are none."""
    entries = list(entries)
    if not entries:
        return []
    more = ", ..." if len(entries) > _SHOWN else ""
    return [f"{title} ({len(entries)}): {', '.join(entries[:_SHOWN])}{more}"]


def summary(keys: list[str]) -> str:
    """Name keys, those of a large part together: ``neck.* (16), head.bias, head.weight``."""
    parts = []
    for part, group in groupby(sorted(keys), key=lambda key: key.split(".")[0]):
        members = list(group)
        parts += members if len(members) <= 2 else [f"{part}.* ({len(members)})"]
    return ", ".join(parts)
