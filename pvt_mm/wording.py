"""How messages name many things."""

from collections.abc import Iterable
from typing import Any

__all__ = ["some"]


def some(names: Iterable[Any], shown: int = 3) -> str:
    """Write the first few names, and how many there are if that is not all."""
    names = list(names)
    more = f", ... {len(names)} in all" if len(names) > shown else ""
    return ", ".join(str(name) for name in names[:shown]) + more
