"""From a file to what it holds, without executing anything of it."""

from __future__ import annotations

import os
import pickletools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from mmengine.utils import digit_version

from pvt_mm.checkpoints import restricted_pickle
from pvt_mm.checkpoints.dry_run import Bounded, check_legacy, check_record
from pvt_mm.checkpoints.layout_of_file import layout_of, open_regular
from pvt_mm.checkpoints.stand_ins import ALLOWED, resolve
from pvt_mm.checkpoints.zip_directory import record_sizes
from pvt_mm.errors import (
    FETCH_AGAIN,
    CheckpointError,
    DamagedCheckpointError,
    RefusedCheckpointError,
)
from pvt_mm.wording import printable

__all__ = ["TORCH_TAKES_ALLOW_LIST", "read_through", "safe_load"]

# From 2.6 on weights_only=True can be told which names to allow, and what they stand for.
TORCH_TAKES_ALLOW_LIST = digit_version(torch.__version__) >= digit_version("2.6")
_allow_list_lock = threading.Lock()


def safe_load(
    path: str | os.PathLike[str], map_location: Any = "cpu", *, mmap: bool = False
) -> Any:
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
    with open_regular(path) as file:
        layout = layout_of(path, file)
        # The file that was opened, whatever has taken its name by now.
        same = f"/dev/fd/{file.fileno()}"
        if layout == "safetensors":
            return _load_safetensors(path, same, map_location)
        try:
            read_through(file, layout)
            if mmap and layout == "zip" and TORCH_TAKES_ALLOW_LIST and map_location == "cpu":
                return resolve(_load_pickle(same, map_location, mmap=True))
            return resolve(_load_pickle(file, map_location))
        except torch.cuda.OutOfMemoryError:
            raise
        except RefusedCheckpointError as error:
            raise _refusal(path, _unknown_globals(file, layout) or [str(error)]) from None
        except Exception as error:  # whatever a damaged file makes the readers do
            if names := _unknown_globals(file, layout):
                raise _refusal(path, names) from None
            raise DamagedCheckpointError(
                f"{path} is damaged or no checkpoint ({_reason(error)}): {FETCH_AGAIN}"
            ) from error


def read_through(file: IO[bytes], layout: str) -> None:
    """Read the file without making anything of it."""
    size = os.fstat(file.fileno()).st_size
    if layout == "zip":
        records = record_sizes(file)
        file.seek(0)
        reader = torch._C.PyTorchFileReader(file)
        top = next(iter(records)).split("/")[0]
        if records.keys() != {f"{top}/{name}" for name in reader.get_all_records()}:
            raise RefusedCheckpointError("two directories")
        inside = {name.removeprefix(f"{top}/"): length for name, length in records.items()}
        check_record(BytesIO(reader.get_record("data.pkl")), size, inside, _of_user())
    else:
        check_legacy(file, size, _of_user())
    file.seek(0)


def _of_user() -> set[str]:
    """Names that the user has allowed with ``torch.serialization.add_safe_globals``."""
    if not TORCH_TAKES_ALLOW_LIST:
        return set()
    return {_name_of(entry) for entry in torch.serialization.get_safe_globals()}


def _load_pickle(file: IO[bytes] | str, map_location: Any, **options: bool) -> Any:
    if not TORCH_TAKES_ALLOW_LIST:
        return _load_restricted(file, map_location)
    with _allow_list():
        return torch.load(file, map_location=map_location, weights_only=True, **options)


def _load_restricted(file: IO[bytes] | str, map_location: Any = "cpu") -> Any:
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
        return str(entry[1])
    return f"{entry.__module__}.{entry.__qualname__}"


def _unknown_globals(file: IO[bytes], layout: str) -> list[str]:
    """Read, without executing, which names outside the allow-list the file uses."""
    try:
        size = os.fstat(file.fileno()).st_size
        if layout == "zip":
            record_sizes(file)  # before anything is unpacked
            file.seek(0)
            file = BytesIO(torch._C.PyTorchFileReader(file).get_record("data.pkl"))
        file.seek(0)
        names = _global_names(Bounded(file, size))
    except Exception:  # damaged beyond naming anything
        return []
    return sorted(names - set(restricted_pickle.known_globals()) - _of_user())


def _global_names(file: Bounded) -> set[str]:
    names: set[str] = set()
    strings: list[str] = []
    try:
        while True:  # the old layout is a row of pickles, then the tensors' bytes
            for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
                if opcode.name in ("GLOBAL", "INST"):
                    names.add(restricted_pickle.full_name(*str(argument).split(" ", 1)))
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    names.add(restricted_pickle.full_name(*strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except ValueError:  # no pickle any more
        pass
    return names


def _refusal(path: Path, names: list[str]) -> RefusedCheckpointError:
    shown = ", ".join(printable(name) for name in names[:5])
    shown += f" and {len(names) - 5} more" if len(names) > 5 else ""
    return RefusedCheckpointError(
        f"{path} is refused: it asks for {shown}, which no checkpoint needs; nothing of it was "
        "executed. If you made the file, save only the model's state_dict"
    )


def _reason(error: Exception) -> str:
    text = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return f"{type(error).__name__}: {printable(text)}" if text else type(error).__name__


def _load_safetensors(path: Path, file: str, map_location: Any) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            f"{path} is a safetensors file, and safetensors is not installed: "
            "python -m pip install safetensors"
        ) from None
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        return load_file(file, device=str(device))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise DamagedCheckpointError(
            f"{path} is a damaged safetensors file ({_reason(error)}): {FETCH_AGAIN}"
        ) from error
