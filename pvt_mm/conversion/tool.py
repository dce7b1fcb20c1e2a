"""Converting checkpoints between code bases, from the command line and from Python."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pvt_mm.checkpoints import CheckpointError
from pvt_mm.checkpoints.pretrained import summary
from pvt_mm.checkpoints.schemes import read_once
from pvt_mm.cli import CommandLine
from pvt_mm.conversion.conversion import (
    FAMILIES,
    SUFFIXES,
    Conversion,
    convert_state_dict,
    save_checkpoint,
)
from pvt_mm.errors import UserError, run_tool

__all__ = ["main", "run_convert"]


def run_convert(
    source: str,
    out: str | os.PathLike,
    to: str,
    *,
    backbone_only: bool = False,
    force: bool = False,
) -> Conversion:
    """Convert a checkpoint, and print what it was and what was written.

    Args:
        source: A file, a URL or an alias.
        out: The file to write: ``.safetensors``, or ``.pth``, ``.pt``, ``.bin`` for torch's own.
        to: The code base to write it for, one of ``FAMILIES``.
        backbone_only: Leave out what surrounds the PVT in a detector or segmentor.
        force: Replace a file that exists.

    Raises:
        UserError: If ``out`` cannot be the file to write.
        CheckpointError: If ``source`` cannot be read or converted.
    """
    path = Path(out).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if path.exists() and not (force and path.is_file()):
        how = "it is no file" if not path.is_file() else "--force replaces it"
        raise UserError(f"{path} exists: {how}, or choose another name")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    if "://" not in source and not Path(source).expanduser().is_file():
        raise UserError(f"checkpoint {source} not found: check the path")
    loaded = read_once(source)
    try:
        done = convert_state_dict(loaded, to, backbone_only)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    save_checkpoint(done.state_dict, path, _wrapping(loaded, path, to))
    model = done.arch or "a PVT of no released size"
    where = f", under {done.prefix[:-1]}" if done.prefix else ""
    print(f"{source}: layout {done.source.name}, model {model}{where}")
    if done.left_out:
        print(f"left out, for {done.target.name} has no place for them: {summary(done.left_out)}")
    print(f"{path}: layout {done.target.name}, {len(done.state_dict)} tensors")
    return done


def _wrapping(loaded: object, path: Path, to: str) -> dict | None:
    """Keep what MMDetection's tools read beside the weights, such as the classes' names."""
    wrapped = isinstance(loaded, Mapping) and "state_dict" in loaded
    if not wrapped or path.suffix == ".safetensors" or to not in ("pvt_mm", "mmdet"):
        return None
    return {"meta": loaded["meta"]} if "meta" in loaded else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/convert_checkpoint.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "convert_checkpoint.py",
        "Convert a PVT's checkpoint to another code base's names. The layout of the "
        "source is recognised by its keys; no number changes.",
    )
    parser.add_argument("source", metavar="IN", help="file, URL, pvt://NAME, timm://NAME, hf://...")
    parser.add_argument("out", metavar="OUT", help="file to write, .pth or .safetensors")
    parser.add_argument("--to", choices=FAMILIES, required=True, help="whose names to write")
    parser.add_flag("--backbone-only", "leave out what surrounds it in a detector")
    parser.add_flag("--force", "replace OUT if it exists")
    options = parser.options(argv)
    return run_tool(lambda: run_convert(**options))
