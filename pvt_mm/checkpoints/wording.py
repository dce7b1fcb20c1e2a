"""How messages repeat what a file, a server or a URL says."""

from __future__ import annotations

import re

__all__ = ["printable", "public"]


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
