"""Opening what a user names as a checkpoint, and telling by its content what it is."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO

import torch

from pvt_mm.errors import (
    FETCH_AGAIN,
    CheckpointError,
    DamagedCheckpointError,
    RefusedCheckpointError,
)

__all__ = ["layout_of", "open_regular"]


def open_regular(path: Path) -> IO[bytes]:
    """Open a file that is really one: a pipe would make its reader wait for ever.

    Raises:
        CheckpointError: If there is none that can be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist: check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"checkpoint {path} is a folder: name the .pth file in it")
    raise CheckpointError(f"checkpoint {path} is a pipe or a device: copy it into a file first")


def layout_of(path: Path, file: IO[bytes]) -> str:
    """Tell ``'zip'`` (torch >= 1.6), ``'pickle'`` (before) or ``'safetensors'`` by content.

    Args:
        path: The file's name, for messages.
        file: The file at its beginning, where it will be again.

    Raises:
        CheckpointError: If it is none of these.
    """
    try:
        head = file.read(512)
    except OSError as error:  # a failing disk, or a file of /proc
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    file.seek(0)
    if not head:
        raise DamagedCheckpointError(f"{path} is empty (0 bytes): {FETCH_AGAIN}")
    if head[:4] == b"PK\x03\x04":
        _check_zip(path, file)
        return "zip"
    if _is_tar(file):  # before all that torch's reader would take for an archive, too
        what = "a tar archive, not a checkpoint: unpack it, or save it again with today's torch"
    elif head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    elif head[8:9] == b"{":
        if 8 + int.from_bytes(head[:8], "little") <= os.fstat(file.fileno()).st_size:
            return "safetensors"
        what = f"a truncated safetensors file: {FETCH_AGAIN}"
    elif head.lstrip()[:1] == b"<":
        what = "a web page, not a checkpoint: fetch the file itself, not the page that shows it"
    elif head.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the file it points to: run git lfs pull"
    else:
        what = f"no checkpoint (it begins with {head[:8]!r}): name a file that torch.save wrote"
    raise DamagedCheckpointError(f"{path} is {what}")


def _is_tar(file: IO[bytes]) -> bool:
    try:
        # A block, so that a header which declares much is not followed.
        tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    finally:
        file.seek(0)
    return True


def _check_zip(path: Path, file: IO[bytes]) -> None:
    try:
        # torch's own zip reader: another one might see other files in the same archive.
        records = torch._C.PyTorchFileReader(file).get_all_records()
    except (OSError, RuntimeError, ValueError):  # also of names that are no UTF-8
        raise DamagedCheckpointError(f"{path} is truncated or damaged: {FETCH_AGAIN}") from None
    finally:
        file.seek(0)
    if "constants.pkl" in records:
        # Must not reach torch < 2.6, which would run it.
        raise RefusedCheckpointError(
            f"{path} is refused: it is a TorchScript program; save the model's state_dict instead"
        )
    if "data.pkl" not in records:
        raise DamagedCheckpointError(
            f"{path} is a zip archive, but no checkpoint: name a file that torch.save wrote"
        )
