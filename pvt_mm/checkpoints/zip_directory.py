"""A zip archive's directory, read as strictly as ``torch.save`` writes it.

torch's reader allocates what the directory declares, and Python's ``zipfile`` may find another
directory in the same file. So this one takes what torch's takes, and nothing else.
"""

from __future__ import annotations

import os
import struct
from typing import IO

from pvt_mm.errors import RefusedCheckpointError

__all__ = ["record_sizes"]

_END = struct.Struct("<4s4xHHLLH")  # entries here and in all, directory's size and start, comment
_END_64_AT = struct.Struct("<4s4xQ4x")
_END_64 = struct.Struct("<4s20xQQQQ")
_ENTRY = struct.Struct("<4s4xHH4x4xLLHHH8xL")
_LOCAL = struct.Struct("<4s22xHH")
_UNKNOWN = 0xFFFFFFFF  # the number stands in the entry's zip64 field


def record_sizes(file: IO[bytes]) -> dict[str, int]:
    """List the records of an archive with their sizes in bytes, all of which the file holds.

    Args:
        file: An archive that ``torch.save`` may have written; its position changes.

    Raises:
        RefusedCheckpointError: If entries are compressed, overlap, or share a name.
        ValueError: If it is damaged.
    """
    total = file.seek(0, os.SEEK_END)
    number, size, start = _find_directory(file, total)
    if start + size > total:
        raise ValueError("directory outside the file")
    file.seek(start)
    directory = file.read(size)
    sizes: dict[str, int] = {}
    position = names = held = 0
    for _ in range(number):
        flags, method, packed, unpacked, name_len, extra_len, comment_len, local = _fields(
            _ENTRY, directory, position, b"PK\x01\x02"
        )
        position += _ENTRY.size
        name = directory[position : position + name_len].decode()
        extra = directory[position + name_len : position + name_len + extra_len]
        position += name_len + extra_len + comment_len
        unpacked, packed, local = _from_zip64(extra, unpacked, packed, local)
        if method or flags & 1 or packed != unpacked:
            raise RefusedCheckpointError(f"compressed or encrypted content in {name!r:.80}")
        file.seek(local)
        local_name_len, local_extra_len = _fields(_LOCAL, file.read(_LOCAL.size), 0, b"PK\x03\x04")
        content = local + _LOCAL.size + local_name_len + local_extra_len
        held += packed
        if content + packed > total or held > total:
            raise RefusedCheckpointError(f"more bytes than the file has, for {name!r:.80}")
        sizes[name] = packed
        names += 1
    # torch's reader ignores case when it looks a record up.
    if len({name.lower() for name in sizes}) != names:
        raise RefusedCheckpointError("several records of one name")
    return sizes


def _find_directory(file: IO[bytes], total: int) -> tuple[int, int, int]:
    """Return its number of entries, size and start."""
    file.seek(max(total - _END.size, 0))
    _, number, size, start, comment = _fields(_END, file.read(), 0, b"PK\x05\x06")
    if comment:
        raise ValueError("a comment at the end")
    at = total - _END.size - _END_64_AT.size
    if at >= 0:
        file.seek(at)
        locator = file.read(_END_64_AT.size)
        if locator[:4] == b"PK\x06\x07":
            (end,) = _fields(_END_64_AT, locator, 0, b"PK\x06\x07")
            file.seek(min(end, total))
            _, number, size, start = _fields(_END_64, file.read(_END_64.size), 0, b"PK\x06\x06")
    return number, size, start


def _fields(layout: struct.Struct, data: bytes, position: int, signature: bytes) -> tuple[int, ...]:
    try:
        found, *numbers = layout.unpack_from(data, position)
    except struct.error as error:
        raise ValueError(str(error)) from None
    if found != signature:
        raise ValueError(f"{found!r} in the place of {signature!r}")
    return tuple(numbers)


def _from_zip64(extra: bytes, *numbers: int) -> list[int]:
    """Fill in the numbers that do not fit into an entry's four bytes."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = [value for (value,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
            break
        extra = extra[4 + length :]
    filled = []
    for number in numbers:
        if number == _UNKNOWN:
            if not wide:
                raise ValueError("no zip64 field")
            number = wide.pop(0)
        filled.append(number)
    return filled
