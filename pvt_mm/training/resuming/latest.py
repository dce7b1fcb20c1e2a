"""Which checkpoint a run continues from."""

import os
from pathlib import Path
from typing import NamedTuple

from pvt_mm.checkpoints import CheckpointError, safe_load
from pvt_mm.config.loading import log

__all__ = ["POINTER", "latest_checkpoint"]

# The file in which mmengine notes its latest checkpoint.
POINTER = "last_checkpoint"
# What a run needs to go on; a best or published checkpoint has less.
NEEDED = ("meta", "state_dict", "optimizer")


class Whole(NamedTuple):
    """A checkpoint that a run can continue from; the latest is the greatest."""

    iteration: int
    changed: int  # time of the last change, in nanoseconds
    path: Path


def latest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """Find the checkpoint that ``--resume auto`` continues from.

    That is the one which ``last_checkpoint`` names, or one that was written later and got
    further: the run may have been killed between the two. If the file is missing, or what it
    names cannot be used, it is the whole checkpoint in the folder which got furthest.

    mmengine notes the path as it was seen from the folder where training was started; if that
    leads nowhere, the file of that name in the work directory is meant.

    Returns:
        Its path, or ``None`` if there is none.
    """
    pointer = Path(work_dir) / POINTER
    noted = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
    beside = Path(work_dir) / Path(noted).name
    named = Path(noted) if not noted or Path(noted).is_file() else beside
    start = _inspect(named) if noted else None
    files = (path for path in Path(work_dir).glob("*.pth") if path != named)
    if start is not None:
        files = (path for path in files if _changed(path) > start.changed)
    whole = [found for path in files if (found := _inspect(path))]
    latest = max([*whole, start] if start else whole, default=None)
    if latest is None:
        return None
    if start is None:
        fault = f"names {noted}, which cannot be used" if noted else "is missing or empty"
        log(f"{pointer} {fault}: continuing from {latest.path}")
    elif latest is not start:
        log(f"{latest.path} is newer than {noted}, which {pointer} names: continuing from it")
    return str(latest.path)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def _inspect(path: Path) -> Whole | None:
    """Read a checkpoint as far as needed to tell whether a run can continue from it."""
    try:
        content = safe_load(path, mmap=True)
    except CheckpointError as error:
        log(f"passed over: {error}")
        return None
    if not isinstance(content, dict) or any(key not in content for key in NEEDED):
        return None
    return Whole(content["meta"].get("iter", 0), _changed(path), path)
