"""Reading a large JSON object item by item, so that it never stands in memory as a whole."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["JsonItems"]

_BLANKS = re.compile(r"[ \t\n\r]*")


class JsonItems:
    """The top-level object of a JSON file, whose arrays are decoded one item at a time.

    The text itself is held: Python's objects of the same content take about ten times as much.

    Args:
        path: A JSON file in UTF-8.

    Raises:
        OSError: If it cannot be read.
        ValueError: Here or later, if it is not valid JSON in UTF-8. ``RecursionError`` is possible
            too, where brackets are nested without end.
    """

    def __init__(self, path: Path) -> None:
        self._text = path.read_bytes().decode("utf-8")
        if self._text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected byte order mark", self._text, 0)
        self._scan = json.JSONDecoder().scan_once
        self._pos = 0

    def is_object(self) -> bool:
        """Whether the top level is an object."""
        return self._peek() == "{"

    def keys(self) -> Iterator[tuple[str, bool]]:
        """Yield each key and whether an array follows; that has to be read by ``items`` then.

        Any other value is skipped.
        """
        yield from self._separated("{", "}", self._key)
        if self._peek():
            raise self._error("Extra data")

    def items(self) -> Iterator[Any]:
        """Yield the items of the array that starts here."""
        yield from self._separated("[", "]", self._value)

    def skip(self) -> None:
        """Skip the value that starts here."""
        self._value()

    def tell(self) -> int:
        """Return the position, for ``seek``."""
        return self._pos

    def seek(self, position: int) -> None:
        """Go back to a position."""
        self._pos = position

    def _key(self) -> tuple[str, bool]:
        key = self._value() if self._peek() == '"' else None
        if key is None or self._peek() != ":":
            raise self._error("Expecting a property name in double quotes and ':'")
        self._pos += 1
        is_array = self._peek() == "["
        if not is_array:
            self._value()
        return key, is_array

    def _separated(self, start: str, end: str, read) -> Iterator[Any]:
        if self._peek() != start:
            raise self._error(f"Expecting {start!r}")
        self._pos += 1
        if self._peek() != end:
            while True:
                yield read()
                if self._peek() != ",":
                    break
                self._pos += 1
        if self._peek() != end:
            raise self._error(f"Expecting ',' or {end!r}")
        self._pos += 1

    def _peek(self) -> str:
        """Skip blanks; the next character, or '' at the end."""
        self._pos = _BLANKS.match(self._text, self._pos).end()
        return self._text[self._pos : self._pos + 1]

    def _value(self) -> Any:
        self._peek()
        try:
            value, self._pos = self._scan(self._text, self._pos)
        except StopIteration:
            raise self._error("Expecting value") from None
        return value

    def _error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, self._pos)
