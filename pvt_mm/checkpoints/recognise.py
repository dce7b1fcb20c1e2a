"""What a state dict looks to be: which PVT, or what else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Traits", "describe", "foreign_network", "recognise_arch", "traits_of"]

_STAGES = (1, 2, 3, 4)
# SegFormer's MiT has the official PVT v2's names, and MLPs of this width in all four stages.
_MIT_RATIO = 4
_RESNETS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "ResNet-18",
    (3, 4, 6, 3): "ResNet-34 or ResNet-50",
    (3, 4, 23, 3): "ResNet-101",
    (3, 8, 36, 3): "ResNet-152",
}
# Keys that betray other networks, in the names of their usual code bases, after any prefix.
_FOREIGN = (
    (r"layer1\.0\.conv1\.weight", "a ResNet"),
    (r"(layers|stages)\.0\.blocks\.0\.attn\.(w_msa\.)?relative_position_bias_table", "a Swin"),
    (r"(downsample_layers|stem)\.0(\.0)?\.weight", "a ConvNeXt"),
    (r"(blocks|layers)\.0\.attn\.(qkv|attn\.in_proj_)\.?weight", "a ViT"),
    (r"(segformer\.)?encoder\.patch_embeddings\.0\.proj\.weight", "transformers' SegFormer"),
    (r"(features|_blocks|blocks)\.0\.", "a convolutional network"),
)


class Traits(NamedTuple):
    """What tells one PVT from another; each tuple has one entry a stage."""

    version: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    hidden_dims: tuple[int, ...]
    linear_sra: bool


def recognise_arch(state_dict: Mapping[str, Tensor]) -> str | None:
    """Say which released model has these tensors, by their shapes, or None."""
    from pvt_mm.archs import ARCHS

    found = traits_of(state_dict)
    names = (arch.name for arch in ARCHS.values() if _traits_of_arch(arch) == found)
    return next(names, None)


def traits_of(state: Mapping[str, Tensor]) -> Traits | None:
    """Read a PVT's architecture off its tensors under our names; None if there is no whole one."""
    try:
        dims = tuple(state[f"patch_embed{stage}.proj.weight"].shape[0] for stage in _STAGES)
        hidden = tuple(state[f"block{stage}.0.mlp.fc1.weight"].shape[0] for stage in _STAGES)
        sr = state.get("block1.0.attn.sr.weight")
        linear = sr is not None and sr.shape[-1] == 1
    except (KeyError, IndexError, AttributeError):
        return None
    depths = tuple(
        sum(re.fullmatch(rf"block{stage}\.\d+\.norm1\.weight", key) is not None for key in state)
        for stage in _STAGES
    )
    return Traits(1 if "pos_embed1" in state else 2, dims, depths, hidden, linear)


def describe(state: Mapping[str, Tensor]) -> str | None:
    """Say in words which PVT these tensors are, with the nearest release; None for no whole PVT."""
    from pvt_mm.archs import ARCHS

    found = traits_of(state)
    if found is None:
        return None
    name = recognise_arch(state)
    if name:
        return f"looks like {name}"
    narrow = tuple(_MIT_RATIO * dims for dims in found.embed_dims)
    if found.version == 2 and found.hidden_dims == narrow and not found.linear_sra:
        return "looks like a MiT, SegFormer's backbone"

    def likeness(arch: Any) -> tuple[Any, ...]:
        other = _traits_of_arch(arch)
        same = (a == b for a, b in zip(found[1:4], other[1:4], strict=True))
        apart = sum(abs(a - b) for a, b in zip(found.depths, arch.depths, strict=True))
        return found[0] == other[0], sum(same), found.linear_sra == arch.linear_sra, -apart

    nearest = max(ARCHS.values(), key=likeness)
    return (
        f"looks like a PVT v{found.version} with embed_dims={found.embed_dims} and "
        f"depths={found.depths}; the closest release is {nearest.name}"
    )


def foreign_network(state: Mapping[str, Any]) -> str | None:
    """Say which other network these keys are of, if they betray it."""
    for pattern, name in _FOREIGN:
        found = re.compile(rf"(?:.*\.)?{pattern}")
        if not any(found.match(key) for key in state):
            continue
        if name != "a ResNet":
            return name
        depths = tuple(_count(state, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in _STAGES)
        model = _RESNETS.get(depths, "ResNet")
        return f"a {model} (for one: type='mmdet.ResNet')"
    return None


def _count(state: Mapping[str, Any], pattern: str) -> int:
    found = (re.search(pattern, key) for key in state)
    return len({match[1] for match in found if match})


def _traits_of_arch(arch: Any) -> Traits:
    hidden = tuple(int(c * r) for c, r in zip(arch.embed_dims, arch.mlp_ratios, strict=True))
    return Traits(arch.version, arch.embed_dims, arch.depths, hidden, arch.linear_sra)
