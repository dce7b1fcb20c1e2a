"""From a file to what it holds, without executing anything of it."""

from __future__ import annotations

import os
import pickletools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.utils import digit_version

from . import restricted_pickle
from .errors import CheckpointError, DamagedCheckpointError, RefusedCheckpointError
from .stand_ins import ALLOWED, resolve

__all__ = ["safe_load"]

# From 2.6 on weights_only=True can be told which names to allow, and what they stand for.
_TORCH_TAKES_ALLOW_LIST = digit_version(torch.__version__) >= digit_version("2.6")
_FETCH_AGAIN = "delete it and fetch it again"
# What torch's reader says of a file that misuses names which are allowed as such.
_FORBIDDEN = re.compile("unrecognized function|Can only |Only persistent_load|persistent_load id")
_allow_list_lock = threading.Lock()


def safe_load(path: str | os.PathLike, map_location: Any = "cpu", *, mmap: bool = False) -> Any:
    """Read a checkpoint, never executing anything of it.

    Besides tensors and plain data it may hold what mmengine's checkpoints do: logged histories,
    numpy arrays and numbers. Training checkpoints of MMDetection 2.x and MMSegmentation 0.x and of
    PVT's authors load too, and safetensors files if that package is installed.

    Args:
        path: A local file.
        map_location: Where the tensors go, as for :func:`torch.load`; None is the CPU too.
        mmap: Leave tensors on the CPU in the file until they are read. Only for who copies them
            at once: to truncate the file later would end the process.

    Returns:
        What was saved, usually a dict.

    Raises:
        CheckpointError: If the file is missing, damaged, or no checkpoint, or if it holds anything
            else, such as code: then it is a :class:`RefusedCheckpointError`.
    """
    path = Path(path).expanduser()
    map_location = "cpu" if map_location is None else map_location
    with _open(path) as file:
        layout = _recognise(path, file)
        if layout == "safetensors":
            return _load_safetensors(path, map_location)
        try:
            if mmap and layout == "zip" and _TORCH_TAKES_ALLOW_LIST and map_location == "cpu":
                return resolve(_load_pickle(str(path), map_location, mmap=True))
            return resolve(_load_pickle(file, map_location))
        except torch.cuda.OutOfMemoryError:
            raise
        except RefusedCheckpointError as error:
            raise _refusal(path, _unknown_globals(file, layout) or [str(error)]) from None
        except Exception as error:  # whatever a damaged or hostile file makes the reader do
            if names := _unknown_globals(file, layout):
                raise _refusal(path, names) from None
            reason = _reason(error)
            if _FORBIDDEN.search(reason):
                raise _refusal(path, [reason]) from None
            raise DamagedCheckpointError(
                f"{path} is damaged or no checkpoint ({reason}): {_FETCH_AGAIN}"
            ) from error


def _open(path: Path) -> IO[bytes]:
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist: check the path")
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder: name the .pth file in it")
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None


def _recognise(path: Path, file: IO[bytes]) -> str:
    """Tell ``'zip'`` (torch >= 1.6), ``'pickle'`` (before) or ``'safetensors'`` by content."""
    head = file.read(512)
    file.seek(0)
    if not head:
        raise DamagedCheckpointError(f"{path} is empty (0 bytes): {_FETCH_AGAIN}")
    if head[:4] == b"PK\x03\x04":
        _check_zip(path)
        return "zip"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if head[8:9] == b"{":
        size = path.stat().st_size
        if 8 + int.from_bytes(head[:8], "little") <= size:
            return "safetensors"
        raise DamagedCheckpointError(f"{path} is a truncated safetensors file: {_FETCH_AGAIN}")
    if head.lstrip()[:1] == b"<":
        what = "a web page, not a checkpoint: fetch the file itself, not the page that shows it"
    elif head.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the file it points to: run git lfs pull"
    elif head[257:262] == b"ustar":
        what = "a tar archive, not a checkpoint: unpack it, or save it again with today's torch"
    else:
        what = f"no checkpoint (it begins with {head[:8]!r}): name a file that torch.save wrote"
    raise DamagedCheckpointError(f"{path} is {what}")


def _check_zip(path: Path) -> None:
    try:
        records = _records(path)
    except (RuntimeError, ValueError):  # ValueError: names of records that are no UTF-8
        raise DamagedCheckpointError(f"{path} is truncated or damaged: {_FETCH_AGAIN}") from None
    if "constants.pkl" in records:
        # Must not reach torch < 2.6, which would run it.
        raise RefusedCheckpointError(
            f"{path} is refused: it is a TorchScript program; save the model's state_dict instead"
        )
    if "data.pkl" not in records:
        raise DamagedCheckpointError(
            f"{path} is a zip archive, but no checkpoint: name a file that torch.save wrote"
        )


def _records(path: Path) -> list[str]:
    # torch's own zip reader: another one might see other files in the same archive.
    return torch._C.PyTorchFileReader(str(path)).get_all_records()


def _load_pickle(file: IO[bytes] | str, map_location: Any, **options: bool) -> Any:
    if not _TORCH_TAKES_ALLOW_LIST:
        return load_restricted(file, map_location)
    with _allow_list():
        return torch.load(file, map_location=map_location, weights_only=True, **options)


def load_restricted(file: IO[bytes], map_location: Any = "cpu") -> Any:
    """Load with our own pickle reader; for torch < 2.6 only."""
    # weights_only excludes a pickle_module, and without that torch < 2.6 takes no allow-list. The
    # reader restricts names and instructions as weights_only would: nothing of the file runs.
    return torch.load(
        file, map_location=map_location, pickle_module=restricted_pickle, weights_only=False
    )


@contextmanager
def _allow_list() -> Iterator[None]:
    """Allow our names, and no others under them, until the block ends.

    What the user has allowed with ``torch.serialization.add_safe_globals`` stays allowed, but for
    names of ours: the advice to allow ``getattr`` there is widespread and opens everything.
    """
    serialization = torch.serialization
    with _allow_list_lock:
        before = serialization.get_safe_globals()
        kept = [entry for entry in before if _name_of(entry) not in ALLOWED]
        ours = [(stand_in, name) for name, stand_in in ALLOWED.items()]
        try:
            serialization.clear_safe_globals()
            serialization.add_safe_globals([*kept, *ours])
            yield
        finally:
            serialization.clear_safe_globals()
            serialization.add_safe_globals(before)


def _name_of(entry: Any) -> str:
    if isinstance(entry, tuple):
        return entry[1]
    return f"{entry.__module__}.{entry.__qualname__}"


def _unknown_globals(file: IO[bytes], layout: str) -> list[str]:
    """Read, without executing, which names outside the allow-list the file uses."""
    try:
        file.seek(0)
        if layout == "zip":
            reader = torch._C.PyTorchFileReader(file)
            file = BytesIO(reader.get_record("data.pkl"))
        names = _global_names(file)
    except Exception:  # damaged beyond naming anything
        return []
    return sorted(names - set(restricted_pickle.known_globals()))


def _global_names(file: IO[bytes]) -> set[str]:
    names, strings = set(), []
    try:
        while file.read(1):  # the old layout is a row of pickles, then the tensors' bytes
            file.seek(-1, os.SEEK_CUR)
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    names.add(restricted_pickle.full_name(*argument.split(" ", 1)))
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    names.add(restricted_pickle.full_name(*strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except ValueError:  # no pickle any more
        pass
    return names


def _refusal(path: Path, names: list[str]) -> RefusedCheckpointError:
    shown = ", ".join(_printable(name) for name in names[:5])
    shown += f" and {len(names) - 5} more" if len(names) > 5 else ""
    return RefusedCheckpointError(
        f"{path} is refused: it asks for {shown}, which no checkpoint needs; nothing of it was "
        "executed. If you made the file, save only the model's state_dict"
    )


def _reason(error: Exception) -> str:
    text = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return f"{type(error).__name__}: {_printable(text)}" if text else type(error).__name__


def _printable(text: str) -> str:
    """Keep what the file says from breaking the line or steering the terminal."""
    return "".join(char if char.isprintable() else " " for char in text[:150])


def _load_safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            f"{path} is a safetensors file, and safetensors is not installed: "
            "python -m pip install safetensors"
        ) from None
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        return load_file(path, device=str(device))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise DamagedCheckpointError(
            f"{path} is a damaged safetensors file ({_reason(error)}): {_FETCH_AGAIN}"
        ) from error
