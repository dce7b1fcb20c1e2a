"""What the figures share: colours that colour-blind people can tell apart, and saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pvt_mm.colours import OKABE_ITO
from pvt_mm.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "save_figure"]

# In the order of use; without the yellow, which is faint on white.
NAMES = ("blue", "vermilion", "bluish green", "reddish purple", "orange", "sky blue")
COLOURS = (*("#{:02X}{:02X}{:02X}".format(*OKABE_ITO[name]) for name in NAMES), "#000000")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
