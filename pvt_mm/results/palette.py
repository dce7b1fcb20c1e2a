"""Colours for classes."""

from __future__ import annotations

from typing import Any

from pvt_mm.colours import OKABE_ITO
from pvt_mm.results.kinds import Colour

__all__ = ["fits", "palette_of"]

# After the first seven a lighter and a darker shade of each; names are written beside them anyway.
PALETTE: tuple[Colour, ...] = (
    *OKABE_ITO.values(),
    *((255, 211, 128), (181, 222, 247), (111, 219, 190), (250, 245, 181)),
    *((109, 184, 226), (255, 166, 102), (233, 192, 214)),
    *((128, 88, 0), (20, 96, 138), (0, 84, 61), (138, 129, 10)),
    *((0, 58, 92), (115, 50, 0), (133, 52, 97)),
)


def palette_of(colours: Any, count: int) -> tuple[Colour, ...]:
    """Return a colour for each class.

    Args:
        colours: What a data set says of them, if it fits; else colours that colour-blind people
            can tell apart are taken.
        count: How many classes there are.
    """
    if not fits(colours, count):
        return tuple(PALETTE[index % len(PALETTE)] for index in range(count))
    return tuple(tuple(int(value) for value in colour) for colour in colours)


def fits(palette: Any, count: int) -> bool:
    """Whether it is a colour for each of so many classes."""
    return (
        isinstance(palette, (list, tuple))
        and len(palette) == count
        and all(len(colour) == 3 for colour in palette)
    )
