"""Files that are either whole or as they were."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


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
    handle, name = tempfile.mkstemp(".partial", path.name + ".", path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp's files are private
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
