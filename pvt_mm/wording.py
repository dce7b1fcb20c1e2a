"""How messages name many things, and repeat what files, servers and libraries say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["one_line", "printable", "public", "some"]


def some(names: Iterable[Any], shown: int = 3) -> str:
    """Write the first few names, and how many there are if that is not all."""
    names = list(names)
    more = f", ... {len(names)} in all" if len(names) > shown else ""
    return ", ".join(str(name) for name in names[:shown]) + more


def one_line(error: BaseException) -> str:
    """Word a library's error in one line, beginning with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def printable(text: object) -> str:
    """Keep a text of others short, on one line, and from steering the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(text)[:150])


def public(address: str) -> str:
    """Leave out of a URL what may be secret: user and password, and the query with its tokens.

    A path or an alias stays as it is.
    """
    if "://" not in address:
        return address
    address = re.sub(r"://[^/?#]*@", "://***@", address)
    return re.sub(r"\?.*", "?***", address, flags=re.DOTALL)
