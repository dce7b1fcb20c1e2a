"""The allow-list: what a checkpoint of mmengine may hold besides tensors and plain data.

A pickle names functions and classes, and its reader calls them. Here every allowed name leads not
to the real thing but to a stand-in, which checks what the file hands it and keeps it as plain
data; :func:`resolve` then makes the real objects. So neither numpy's nor mmengine's unpickling
code ever sees the file. It matters: numpy believes a pickled dtype that calls raw bytes pointers,
and ``HistoryBuffer`` writes functions of the file into a table of its class.
"""

from __future__ import annotations

import argparse
import math
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any, Literal

import numpy as np
from mmengine.logging import HistoryBuffer

from pvt_mm.errors import RefusedCheckpointError

__all__ = ["ALLOWED", "MAX_DIMS", "StandIn", "resolve"]

MAX_DIMS = 64  # as many as numpy and torch know

_STATISTICS = ("min", "max", "current", "mean")
_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[US]\d{1,6})")


class StandIn(ABC):
    """Holds what the file says of an object that is made later."""

    @abstractmethod
    def __setstate__(self, state: Any) -> None: ...

    @abstractmethod
    def resolve(self) -> Any:
        """Make the object."""


class DType(StandIn):
    """A numpy dtype of plain numbers or strings: no objects, fields, sub-arrays or flags."""

    def __init__(self, spec: str, align: bool = False, copy: bool = False) -> None:
        if type(spec) is not str or not _PLAIN_DTYPE.fullmatch(spec):
            raise RefusedCheckpointError(f"numpy.dtype({spec!r:.80}): only plain numbers")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, sub-array, names, fields, item size, alignment, flags)
        order, structure, size = state[1], state[2:5], state[5]
        if structure != (None, None, None) or size not in (-1, self.dtype.itemsize):
            raise RefusedCheckpointError(f"numpy.dtype with structure {state!r:.80}")
        self.dtype = self.dtype.newbyteorder(order)

    def resolve(self) -> np.dtype:
        return self.dtype


class Array(StandIn):
    """A numpy array of plain numbers or strings."""

    value = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.value = _from_bytes(shape, dtype, raw, "F" if is_fortran else "C")

    def resolve(self) -> np.ndarray:
        if self.value is None:
            raise RefusedCheckpointError("numpy.ndarray without content")
        return self.value


class Buffer(StandIn):
    """mmengine's history of a logged value. The statistics that its file names are ignored."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def resolve(self) -> HistoryBuffer:
        values, counts = resolve([self.state["_log_history"], self.state["_count_history"]])
        return HistoryBuffer(values, counts, int(self.state["max_length"]))


class Namespace(StandIn):
    """The command line's arguments, which PVT's authors put into their checkpoints."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def resolve(self) -> argparse.Namespace:
        return argparse.Namespace(**resolve(self.state))


def restricted_getattr(owner: Any, name: str) -> str:
    """Stand in for ``getattr``, by which a pickled HistoryBuffer names its statistics."""
    if owner is not Buffer or name not in _STATISTICS:
        owner_name = getattr(owner, "__name__", type(owner).__name__)
        raise RefusedCheckpointError(f"builtins.getattr({owner_name}, {name!r:.80})")
    return name


def new_array(cls: type, shape: tuple[int, ...], typecode: bytes) -> Array:
    """Stand in for numpy's ``_reconstruct``."""
    if cls is not Array:
        raise RefusedCheckpointError("numpy's _reconstruct of something that is no array")
    return Array()


def new_scalar(dtype: DType, raw: bytes) -> Any:
    """Stand in for numpy's ``scalar``."""
    return _from_bytes((), dtype, raw, "C")[()]


def empty_bytes() -> bytes:
    """Stand in for ``bytes``, by which empty ones are pickled: the content of an empty array."""
    return b""


def new_defaultdict(factory: Any = None) -> dict[Any, Any]:
    """Stand in for ``defaultdict``: the data arrives, the factory does not."""
    return {}


# What a defaultdict would call for new entries: a name that cannot be called.
_FACTORY = object()


def _from_bytes(
    shape: tuple[int, ...], dtype: DType, raw: bytes, order: Literal["C", "F"]
) -> np.ndarray:
    if type(dtype) is not DType or type(raw) is not bytes:
        raise RefusedCheckpointError("a numpy array or number that is no plain data")
    if len(shape) > MAX_DIMS or len(raw) != math.prod(shape) * dtype.dtype.itemsize:
        raise RefusedCheckpointError(f"a numpy array {shape!r:.80} with {len(raw)} bytes")
    return np.ndarray(shape, dtype.dtype, buffer=raw, order=order).copy(order)


ALLOWED: dict[str, Any] = {
    "mmengine.logging.history_buffer.HistoryBuffer": Buffer,
    "builtins.getattr": restricted_getattr,
    "numpy.ndarray": Array,
    "numpy.dtype": DType,
    "numpy.core.multiarray._reconstruct": new_array,  # numpy 1
    "numpy._core.multiarray._reconstruct": new_array,  # numpy 2
    "numpy.core.multiarray.scalar": new_scalar,
    "numpy._core.multiarray.scalar": new_scalar,
    "collections.defaultdict": new_defaultdict,
    "builtins.bytes": empty_bytes,
    **dict.fromkeys(("builtins.list", "builtins.dict", "builtins.int", "builtins.float"), _FACTORY),
    "argparse.Namespace": Namespace,
}


def resolve(loaded: Any, _seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Replace the stand-ins in nested dicts, lists and tuples; dicts and lists stay the same."""
    seen = {} if _seen is None else _seen
    if id(loaded) in seen:
        return seen[id(loaded)][1]
    if isinstance(loaded, StandIn):
        result = loaded.resolve()
    elif type(loaded) is tuple:
        result = tuple(resolve(item, seen) for item in loaded)
    elif type(loaded) in (dict, OrderedDict, list):
        result = loaded
        seen[id(loaded)] = (loaded, result)  # before its items: it may hold itself
        for key, item in loaded.items() if isinstance(loaded, dict) else enumerate(loaded):
            loaded[key] = resolve(item, seen)
    else:
        return loaded
    seen[id(loaded)] = (loaded, result)  # keeps the object, and so its id, alive
    return result
