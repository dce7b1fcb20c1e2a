"""Stand-ins for what allocates: tensors as numbers, containers with keys that can be hashed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pvt_mm.checkpoints.restricted_pickle import check_key
from pvt_mm.checkpoints.stand_ins import MAX_DIMS
from pvt_mm.errors import RefusedCheckpointError

__all__ = [
    "DeclaredTensor",
    "Storage",
    "StorageType",
    "bytes_of",
    "filling",
    "natural",
    "parameter",
    "tensor",
    "tensor_v3",
]


Sizes = tuple[Any, ...]  # as the file says


class StorageType(NamedTuple):
    """A type of storages; no call makes one."""

    itemsize: int


class Storage(NamedTuple):
    """A storage that a file declares."""

    nbytes: int
    itemsize: int


class DeclaredTensor(NamedTuple):
    """A tensor that lies within its storage."""

    nbytes: int  # if it were dense


def natural(number: Any) -> int:
    """Return what has to be a size, a stride or an offset."""
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise RefusedCheckpointError(f"a size of {number!r:.80}")
    return number


def tensor(storage: Storage, offset: int, size: Sizes, stride: Sizes, *rest: Any) -> DeclaredTensor:
    """Stand in for ``_rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    return _checked(storage, offset, size, stride, storage.itemsize, rest[1:])


def tensor_v3(
    storage: Storage, offset: int, size: Sizes, stride: Sizes, *rest: Any
) -> DeclaredTensor:
    """Stand in for ``_rebuild_tensor_v3``, which names the type."""
    _, hooks, dtype, *flags = rest
    return _checked(storage, offset, size, stride, dtype.itemsize, (hooks, *flags))


def _checked(
    storage: Any, offset: int, size: Sizes, stride: Sizes, itemsize: int, rest: Sizes
) -> DeclaredTensor:
    if type(storage) is not Storage or any(rest):  # hooks and flags, which state dicts lack
        raise RefusedCheckpointError("a tensor with more than its numbers")
    if len(size) != len(stride) or len(size) > MAX_DIMS:
        raise RefusedCheckpointError("a tensor whose size and stride do not agree")
    number = math.prod(map(natural, size))
    steps = zip(size, map(natural, stride), strict=True)
    needed = natural(offset) + 1 + sum((n - 1) * step for n, step in steps) if number else 0
    if needed * itemsize > storage.nbytes:
        raise RefusedCheckpointError(
            f"a tensor of {needed * itemsize} bytes in a storage of {storage.nbytes}"
        )
    return DeclaredTensor(number * itemsize)


def parameter(
    data: DeclaredTensor, requires_grad: bool = True, hooks: Any = None
) -> DeclaredTensor:
    """Stand in for ``_rebuild_parameter``."""
    if type(data) is not DeclaredTensor or hooks:
        raise RefusedCheckpointError("a parameter with more than its numbers")
    return data


def bytes_of(content: Any = b"", encoding: str = "latin-1") -> bytes:
    """Stand in for ``bytearray``, which would also take a length."""
    if type(content) not in (bytes, str) or encoding != "latin-1":
        raise RefusedCheckpointError(f"bytearray of a {type(content).__name__}")
    return content.encode(encoding) if type(content) is str else content


def filling(make: type) -> Callable[..., Any]:
    """Make a container whose keys can be hashed in no time."""

    def fill(*args: Any) -> Any:
        for items in args[:1]:
            pairs = make is OrderedDict and not isinstance(items, Mapping)
            for item in items:
                check_key(item[0] if pairs else item)
        return make(*args)

    return fill
