"""Files that are either there whole or not at all, whenever the process or the machine dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from pvt_mm.config.loading import log
from pvt_mm.errors import UserError
from pvt_mm.files import PARTIAL, replacing

__all__ = ["AtomicBackend", "check_writable", "disk_faults", "remove_leftovers", "write_atomically"]

REMEDIES = {
    ENOSPC: "free some space or choose another --work-dir",
    EDQUOT: "free some of your quota or choose another --work-dir",
}
DEFAULT_REMEDY = "make the folder writable or choose another --work-dir"


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file beside its place and move it there once it is on the disk.

    Args:
        path: The file; its folder is made if it does not exist.
        content: All that the file will hold.

    Raises:
        UserError: If that is not possible. What stood there before is untouched then, and
            nothing half-written is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise _fault(path, error) from error


def _fault(path: str | os.PathLike, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    remedy = REMEDIES.get(error.errno, DEFAULT_REMEDY)
    return UserError(f"{path} cannot be written: {reason}; {remedy}")


@contextmanager
def disk_faults(work_dir: str | os.PathLike) -> Iterator[None]:
    """Turn what a full or read-only disk does to logs and other files into one line.

    Args:
        work_dir: Named if the error does not say which file could not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EROFS):
            raise
        raise _fault(error.filename or work_dir, error) from error


def check_writable(folder: str | os.PathLike) -> None:
    """Write a small file into a folder, made if need be, and remove it.

    Raises:
        UserError: If that is not possible.
    """
    trial = Path(folder) / f".trial-{os.getpid()}"
    write_atomically(trial, b"trial")
    trial.unlink()


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what runs that were killed in the middle of a save left in a folder."""
    for path in Path(folder).glob(f".*{PARTIAL}"):
        log(f"{path} is what a killed run left of a save: removed")
        path.unlink(missing_ok=True)


class AtomicBackend(LocalBackend):
    """mmengine's access to local files, writing atomically."""

    @classmethod
    def register(cls) -> None:
        """Let mmengine write all local files this way from now on."""
        register_backend("local", cls, force=True, prefixes="")

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; see :func:`write_atomically`."""
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write a text; see :func:`write_atomically`."""
        write_atomically(filepath, obj.encode(encoding))
