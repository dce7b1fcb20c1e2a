"""From one code base's checkpoint to another's: a file in, a file out, nothing lost unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pvt_mm.checkpoints.key_mapping import locate, to_layout, to_ours, unwrap
from pvt_mm.checkpoints.layouts import CLASSIFIER, LAYOUTS, Layout
from pvt_mm.checkpoints.recognise import recognise_arch, traits_of
from pvt_mm.errors import CheckpointError
from pvt_mm.files import replacing
from pvt_mm.wording import some

__all__ = ["FAMILIES", "Conversion", "convert_state_dict", "save_checkpoint"]

FAMILIES = tuple(dict.fromkeys(layout.family for layout in LAYOUTS))
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# What is kept beside a PVT's tensors only where both sides read it.
_WHOLE_MODELS = ("pvt_mm", "mmdet")


class Conversion(NamedTuple):
    """What a checkpoint was, and what became of it.

    Attributes:
        state_dict: The tensors under the wanted names.
        source: Layout of the checkpoint.
        target: Layout of the result.
        arch: Name of the released model, or None for another PVT.
        prefix: What the PVT's keys begin with, on both sides.
        left_out: Keys of the checkpoint that have no place on the other side.
    """

    state_dict: dict[str, Tensor]
    source: Layout
    target: Layout
    arch: str | None
    prefix: str
    left_out: list[str]


def convert_state_dict(checkpoint: Any, family: str, backbone_only: bool = False) -> Conversion:
    """Rename the tensors of a PVT, or of a detector around one, for another code base.

    No number changes. A PVT must be whole: its architecture is read off the tensors, and every
    tensor of that architecture has to be there, and no other.

    Args:
        checkpoint: What a checkpoint file holds.
        family: One of :data:`FAMILIES`.
        backbone_only: Leave out what surrounds a PVT in a detector.

    Raises:
        CheckpointError: If there is no whole PVT in it, or if something has no place on the other
            side; all such keys are listed.
    """
    found = locate(unwrap(checkpoint))
    ours, sources = to_ours(found)
    traits = traits_of(ours)
    if traits is None:
        raise CheckpointError(
            f"holds no whole PVT: stages are missing (layout {found.layout.name})"
        )
    _check_complete(ours, traits)
    target = _target(family, traits.version)
    missing = [key for key in target.needs if key not in ours]
    if missing:
        raise CheckpointError(
            f"{target.name} needs {', '.join(missing)}, which a backbone alone does not have: "
            "convert the classifier's checkpoint"
        )
    outside = {} if backbone_only else found.outside
    if outside and family not in _WHOLE_MODELS:
        raise CheckpointError(
            f"no place in the layout {target.name} for {len(outside)} keys around the PVT: "
            f"{some(outside, 20)}; --backbone-only leaves them out"
        )
    state, absent = to_layout(ours, target)
    prefix = "" if backbone_only else found.prefix
    if not outside and family not in _WHOLE_MODELS:
        prefix = ""
    result = {f"{prefix}{key}": value for key, value in state.items()}
    result |= outside
    left_out = [source for key in absent for source in sources[key]]
    left_out += list(found.outside) if backbone_only else []
    return Conversion(result, found.layout, target, recognise_arch(ours), prefix, left_out)


def _target(family: str, version: int) -> Layout:
    for layout in LAYOUTS:
        if layout.family == family and version in layout.versions:
            return layout
    raise CheckpointError(f"{family} has no PVT v{version}")


def _check_complete(ours: Mapping[str, Tensor], traits: Any) -> None:
    """Compare with a backbone of the architecture that the tensors show."""
    try:
        expected = _shapes(ours, traits)
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"holds tensors of shapes that no PVT has: {error}") from error
    found = {key: tuple(value.shape) for key, value in ours.items() if key not in CLASSIFIER}
    faults = [f"missing {key}" for key in expected if key not in found]
    faults += [f"unknown {key}" for key in found if key not in expected]
    faults += [
        f"{key} has shape {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape and not key.startswith("pos_embed")
    ]
    if faults:
        raise CheckpointError(f"cannot be placed: {some(faults, 20)}")


def _shapes(ours: Mapping[str, Tensor], traits: Any) -> dict[str, tuple[int, ...]]:
    from pvt_mm.backbones import PVT, PVTv2

    dims = traits.embed_dims
    sr = (ours.get(f"block{stage}.0.attn.sr.weight") for stage in (1, 2, 3, 4))
    arch = {
        "embed_dims": dims,
        "depths": traits.depths,
        "num_heads": (1, 1, 1, 1),  # has no part in the shapes
        "mlp_ratios": tuple(h / c for h, c in zip(traits.hidden_dims, dims, strict=True)),
        "sr_ratios": tuple(1 if w is None else w.shape[-1] for w in sr),
    }
    options: dict[str, Any] = {"in_channels": ours["patch_embed1.proj.weight"].shape[1]}
    kind: type[nn.Module] = PVT
    if traits.version == 2:
        kind, arch["linear_sra"] = PVTv2, traits.linear_sra
    try:
        with torch.device("meta"):
            backbone = kind(arch, **options)
    except ValueError as error:
        raise CheckpointError(f"holds no PVT that can be built: {error}") from error
    return {key: tuple(value.shape) for key, value in backbone.state_dict().items()}


def save_checkpoint(state: dict[str, Tensor], path: Path, wrap: Mapping[str, Any] | None) -> None:
    """Write a checkpoint so that ``path`` is either whole or as it was.

    Args:
        state: The tensors.
        path: The file; a suffix of ``.safetensors`` chooses that format.
        wrap: What else the file holds beside ``state_dict``; None for a bare state dict.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    # Parts of one storage, such as a mapped file, would drag all of it along.
    dense = torch.contiguous_format
    state = {key: value.detach().clone(memory_format=dense) for key, value in state.items()}
    try:
        with replacing(path) as partial:
            if path.suffix == ".safetensors":
                _save_safetensors(state, partial)
            else:
                torch.save(state if wrap is None else {**wrap, "state_dict": state}, partial)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


def _save_safetensors(state: dict[str, Tensor], path: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise CheckpointError(
            "safetensors is not installed: python -m pip install safetensors, or write a .pth file"
        ) from None
    save_file(state, path, metadata={"format": "pt"})  # which transformers insists on
