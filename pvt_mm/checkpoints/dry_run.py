"""A pickle read without making anything of it: does what it declares fit into its file?

torch's reader believes what a file says. It allocates storages of any declared size, hands out
memory behind the end of a record, and multiplies what a few bytes refer to again and again. So
every pickle is read twice: here, where tensors are numbers and each copy is paid for, and then by
torch, which can no longer be surprised.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import numpy as np
import torch

from pvt_mm.checkpoints.declared import (
    DeclaredTensor,
    Storage,
    StorageType,
    bytes_of,
    filling,
    natural,
    parameter,
    tensor,
    tensor_v3,
)
from pvt_mm.checkpoints.restricted_pickle import Unpickler, known_globals
from pvt_mm.checkpoints.stand_ins import StandIn
from pvt_mm.errors import RefusedCheckpointError

__all__ = ["Bounded", "check_legacy", "check_record"]

_MAGIC = 0x1950A86A20F9469CFC6C
# How much more than the file its content may be: tied weights and expanded buffers count each time.
_RATIO, _FREE, _FREE_TENSORS = 64, 16 << 20, 512 << 20
_POINTER = 8  # bytes
_MAX_READS = 4_000_000  # some seconds; a detector with its optimizer's state needs 400,000
_TEXTS = (str, bytes, bytearray)


_ARRAYS = (DeclaredTensor, np.ndarray, np.generic)


class _OfUser(StandIn):
    """Something of a class that the user allowed."""

    def __init__(self, *args: Any) -> None:
        self.parts = list(args)

    def __setstate__(self, state: Any) -> None:
        self.parts.append(state)

    def resolve(self) -> None: ...


def check_record(
    pickled: IO[bytes], size: int, records: Mapping[str, int], known: set[str]
) -> None:
    """Check the pickle of a zip archive.

    Args:
        pickled: The content of ``data.pkl``.
        size: Length of the whole file in bytes.
        records: Lengths of all records, by name.
        known: Names that the user allowed in torch.

    Raises:
        RefusedCheckpointError: If something does not fit, or is not allowed.
        Exception: Whatever a damaged pickle makes Python's reader raise.
    """
    reader = _DryRun(Bounded(pickled, size), size, known)
    reader.load_all()
    for key, storage in reader.storages.items():
        if storage.nbytes > records[f"data/{key}"]:
            raise RefusedCheckpointError(
                f"{storage.nbytes} bytes of the shorter record {key!r:.80}"
            )


def check_legacy(file: IO[bytes], size: int, known: set[str]) -> None:
    """Check a file of torch < 1.6, from its beginning; see :func:`check_record`."""
    bounded = Bounded(file, size)
    magic, _, _ = (_DryRun(bounded, size, known).load_all() for _ in range(3))
    if magic != _MAGIC:
        raise ValueError("it does not begin as torch.save's files do")
    reader = _DryRun(bounded, size, known)
    reader.load_all()
    keys = _DryRun(bounded, size, known).load_all()
    if sorted(keys) != sorted(reader.storages):
        raise RefusedCheckpointError("tensors without content")
    declared, there = sum(s.nbytes for s in reader.storages.values()), size - file.tell()
    if declared > there:
        raise EOFError(f"{declared} bytes of tensors declared, {there} there")


class Bounded:
    """A file that is read in bounded time, and never asked for more than it has.

    Args:
        file: The file.
        size: Its length in bytes: what is asked for would be allocated before it is read.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline
        self.left = _MAX_READS

    def read(self, length: int) -> bytes:
        """Read, as files do."""
        self.left -= 1
        if self.left < 0:
            raise RefusedCheckpointError("more instructions than the largest checkpoints have")
        if length > 4096 and length > self.size - self.file.tell():
            raise EOFError("truncated")
        return self.file.read(length)


class _DryRun(Unpickler):
    def __init__(self, file: Any, size: int, of_user: set[str]) -> None:
        super().__init__(file, encoding="utf-8")
        self.limit = self.budget = _RATIO * size + _FREE
        self.storages: dict[str, Storage] = {}
        self.views: dict[str, tuple[Any, ...]] = {}
        self.known = dict.fromkeys(of_user, _OfUser) | known_globals() | self._checks()

    def _checks(self) -> dict[str, Any]:
        """What stands here for the names that would allocate."""
        storages = {
            name: StorageType(getattr(kind, "_dtype", torch.uint8).itemsize)
            for name, kind in known_globals().items()
            if name.endswith("Storage")
        }
        return {
            **storages,
            "collections.OrderedDict": filling(OrderedDict),
            "collections.Counter": filling(Counter),
            "builtins.set": filling(set),
            "builtins.bytearray": bytes_of,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_tensor_v3": tensor_v3,
            "torch._utils._rebuild_parameter": parameter,
            "torch.nn.parameter.Parameter": parameter,
        }

    def load_all(self) -> Any:
        """Read one object and weigh it: nothing that walks through it may take for ever."""
        loaded = self.load()
        data = self._weigh(loaded, {}, lambda value: len(value) if type(value) in _TEXTS else 0)
        tensors = self._weigh(
            loaded, {}, lambda value: value.nbytes if isinstance(value, _ARRAYS) else 0
        )
        if data > self.limit or tensors > self.limit + _FREE_TENSORS:
            raise RefusedCheckpointError(f"content that unfolds to more than {self.limit} bytes")
        return loaded

    def _weigh(self, value: Any, seen: dict[int, int], weight_of: Callable[[Any], int]) -> int:
        if id(value) in seen:
            return seen[id(value)]
        seen[id(value)] = _POINTER  # if it holds itself
        parts: Iterable[Any] = ()
        if type(value) in (list, tuple, set):
            parts = value
        elif isinstance(value, Mapping):
            parts = [*value, *value.values(), *getattr(value, "__dict__", {}).values()]
        elif isinstance(value, StandIn):
            parts = vars(value).values()
        total = _POINTER + weight_of(value)
        seen[id(value)] = total + sum(self._weigh(part, seen, weight_of) for part in parts)
        return seen[id(value)]

    def persistent_load(self, reference: Any) -> Storage:
        """Note what a storage needs; ``reference`` is torch's description of one."""
        _, kind, key, _, length, *view = reference
        if type(kind) is not StorageType or type(key) is not str:
            raise RefusedCheckpointError("a storage of no known type")
        storage = Storage(natural(length) * kind.itemsize, kind.itemsize)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedCheckpointError("a storage with two sizes")
        if view and view[0] is not None:
            view_key, start, length = view[0]
            part = (key, natural(start), natural(length))
            known = view_key in self.storages or self.views.setdefault(view_key, part) != part
            if known or (start + length) * kind.itemsize > storage.nbytes:
                raise RefusedCheckpointError("a view of a storage that does not fit")
            return Storage(length * kind.itemsize, kind.itemsize)
        return storage

    def _pay(self, argument: Any) -> None:
        """Count what a call may copy; nothing else makes more of the bytes that the file has."""
        if hasattr(argument, "__len__"):
            self.budget -= _POINTER * len(argument)
        if self.budget < 0:
            raise RefusedCheckpointError(f"content that unfolds to more than {self.limit} bytes")

    def _check_call(self) -> None:
        for argument in self.stack[-1]:
            self._pay(argument)
        super()._check_call()

    def _build(self) -> None:
        state = self.stack[-1]
        for part in state if isinstance(state, tuple) else [state]:
            self._pay(part)
        super()._build()
