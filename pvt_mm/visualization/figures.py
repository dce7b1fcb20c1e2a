"""What the figures share: colours that colour-blind people can tell apart, and saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pvt_mm.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "save_figure"]

# Okabe and Ito, "Color Universal Design", 2008; without the yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
