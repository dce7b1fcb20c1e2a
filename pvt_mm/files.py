"""Files that are either whole or as they were, and names for them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

__all__ = ["PARTIAL", "replacing", "unique_stem"]

# How the names of files that are being written end; a killed process leaves one behind.
PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside ``path`` that takes its place once it is whole and on the disk.

    Args:
        path: The file, there already or not.

    Yields:
        The file to write, empty at first. If the block raises, it is removed, and ``path`` stays
        as it was.

    Raises:
        OSError: If the folder is missing or cannot be written to.
    """
    handle, name = tempfile.mkstemp(PARTIAL, f".{path.name}.", path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp's files are private
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def unique_stem(path: PurePath, taken: set[str]) -> str:
    """Name an output by its input's stem; by its folder, too, or a number if that is taken.

    Args:
        path: The input.
        taken: The names given so far, to which this one is added.
    """
    stem = _file_name(path.stem) or "input"
    folder = _file_name(path.parent.name)
    name, number = stem, 1
    if name.lower() in taken and folder:
        name = stem = f"{folder}_{stem}"
    while name.lower() in taken:  # some file systems do not tell capitals from small letters
        number += 1
        name = f"{stem}_{number}"
    taken.add(name.lower())
    return name


def _file_name(text: str) -> str:
    """Leave out what file systems or shells do not like in a name."""
    return re.sub(r"[^\w.,()+ -]", "_", text).strip(". ")[:100]


def _sync_folder(folder: Path) -> None:
    """Put on the disk that the folder has a file of this name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
