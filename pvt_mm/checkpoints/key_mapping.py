"""From the names in a checkpoint to ours: dict in, dict out, no module in sight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from .errors import CheckpointError

__all__ = ["LAYOUTS", "Layout", "MappedState", "map_state_dict", "recognise_arch"]


@dataclass(frozen=True)
class Layout:
    """The names that one code base gives to the same tensors.

    Args:
        name: Whose names they are.
        recognise: Pattern that some key of each such file has, and of no other layout's.
        renames: (pattern, replacement) pairs, applied in turn to each key.
        drops: Patterns of keys that a backbone has no use for.
    """

    name: str
    recognise: str
    renames: tuple[tuple[str, str], ...] = ()
    drops: tuple[str, ...] = ()


# Our names are the official ones, so there is nothing to rename.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="official",
        recognise=r"patch_embed1\.proj\.weight",
        # The classifier, the class token and, in v1, the norm before the classifier.
        drops=(r"head\.", r"cls_token$", r"norm\."),
    ),
)

_WRAPPERS = ("state_dict", "model", "model_ema")
_SHOWN = 3


class MappedState(NamedTuple):
    """A state dict under our names, and the file's keys that did not go into it."""

    state_dict: dict[str, Tensor]
    unused: list[str]


def map_state_dict(checkpoint: Any, prefix: str | None = None) -> MappedState:
    """Take a backbone's tensors out of a checkpoint.

    Args:
        checkpoint: What the file holds: a state dict, or a dict that holds one as ``state_dict``,
            ``model`` or ``model_ema``; of a PVT, or of a detector or segmentor around one.
        prefix: What the backbone's keys begin with; found by itself if None.

    Raises:
        CheckpointError: If there is no PVT in it, or something that is no tensor.
    """
    state = _unwrap(checkpoint)
    state, unused = _strip_prefix(state, prefix)
    layout = _find_layout(state)
    mapped = {}
    for key, value in state.items():
        if any(re.match(drop, key) for drop in layout.drops):
            unused.append(key)
            continue
        for pattern, replacement in layout.renames:
            key = re.sub(pattern, replacement, key)
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{key} must be a tensor, found {type(value).__name__}")
        mapped[key] = value
    return MappedState(mapped, unused)


def _unwrap(checkpoint: Any) -> dict[str, Any]:
    while isinstance(checkpoint, Mapping):
        inner = (checkpoint[name] for name in _WRAPPERS if name in checkpoint)
        wrapped = next((value for value in inner if isinstance(value, Mapping)), None)
        if wrapped is None:
            break
        checkpoint = wrapped
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        found = "an empty dict" if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise CheckpointError(f"must hold a state dict, found {found}")
    if not all(isinstance(key, str) for key in checkpoint):
        raise CheckpointError("must hold a state dict, found a dict whose keys are no names")
    return dict(checkpoint)


def _strip_prefix(state: dict[str, Any], prefix: str | None) -> tuple[dict[str, Any], list[str]]:
    """Keep the keys under the backbone's prefix, without it; name the others."""
    if prefix is not None:
        return _below(state, prefix if prefix.endswith(".") else f"{prefix}.")
    while all(key.startswith("module.") for key in state):  # DistributedDataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("backbone.") for key in state):
        return _below(state, "backbone.")
    return state, []


def _below(state: dict[str, Any], prefix: str) -> tuple[dict[str, Any], list[str]]:
    inside = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    if not inside:
        raise CheckpointError(f"no key begins with {prefix}, but for example {_some(state)}")
    return inside, [key for key in state if not key.startswith(prefix)]


def _find_layout(state: dict[str, Any]) -> Layout:
    for layout in LAYOUTS:
        if any(re.match(layout.recognise, key) for key in state):
            return layout
    raise CheckpointError(
        f"holds no PVT: it has no patch_embed1.proj.weight, but for example {_some(state)}"
    )


def _some(keys: Mapping[str, Any]) -> str:
    return ", ".join(list(keys)[:_SHOWN])


def recognise_arch(state_dict: Mapping[str, Tensor]) -> str | None:
    """Say which released model has these tensors, by their shapes, or None."""
    from ..backbones.archs import ARCHS

    try:
        found = _traits(state_dict)
    except (KeyError, IndexError):
        return None
    for arch in ARCHS.values():
        hidden = tuple(int(c * r) for c, r in zip(arch.embed_dims, arch.mlp_ratios, strict=True))
        if found == (arch.version, arch.embed_dims, arch.depths, hidden, arch.linear_sra):
            return arch.name
    return None


def _traits(state: Mapping[str, Tensor]) -> tuple:
    stages = (1, 2, 3, 4)
    dims = tuple(state[f"patch_embed{stage}.proj.weight"].shape[0] for stage in stages)
    hidden = tuple(state[f"block{stage}.0.mlp.fc1.weight"].shape[0] for stage in stages)
    depths = tuple(
        sum(re.fullmatch(rf"block{stage}\.\d+\.norm1\.weight", key) is not None for key in state)
        for stage in stages
    )
    version = 1 if "pos_embed1" in state else 2
    linear = state["block1.0.attn.sr.weight"].shape[-1] == 1
    return version, dims, depths, hidden, linear
