"""The confusion matrix: what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

__all__ = ["Confusion", "most_confused", "plot_confusion", "worst_pairs"]

# Made for people with and without colour vision deficiency, and grows lighter evenly.
COLOUR_MAP = "cividis"
MOST_CLASSES = 24  # that stay legible
WITH_NUMBERS = 30  # rows and columns up to which cells show their number
LONGEST_NAME = 18  # characters


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of what is (rows) and what it was taken for (columns).

    Args:
        labels: Names of the rows, and of the columns.
        counts: ``(n, n)``.
        unit: What is counted.
        background: Whether the last row and column stand for "nothing".
    """

    labels: tuple[str, ...]
    counts: np.ndarray
    unit: str
    background: bool = False

    @property
    def shares(self) -> np.ndarray:
        """Each row in shares of its sum; NaN where that is 0."""
        sums = self.counts.sum(axis=1, keepdims=True).astype(float)
        return np.divide(self.counts, sums, out=np.full(self.counts.shape, np.nan), where=sums > 0)


def most_confused(confusion: Confusion, limit: int = MOST_CLASSES) -> Confusion:
    """Merge all but the most confused classes into one, if there are more than ``limit``."""
    counts = confusion.counts
    classes = len(counts) - confusion.background
    if classes <= limit:
        return confusion
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    kept = np.sort(np.argsort(-errors[:classes], kind="stable")[:limit])
    places = np.full(len(counts), limit)
    places[kept] = np.arange(limit)
    labels = [*(confusion.labels[index] for index in kept), f"{classes - limit} others"]
    if confusion.background:
        places[-1] = limit + 1
        labels.append(confusion.labels[-1])
    merged = np.zeros((len(labels), len(labels)), counts.dtype)
    np.add.at(merged, (places[:, None], places[None, :]), counts)
    return Confusion(tuple(labels), merged, confusion.unit, confusion.background)


def worst_pairs(confusion: Confusion, count: int = 10) -> list[tuple[str, str, int, float]]:
    """Return what is most often taken for something else.

    Returns:
        The true name, the predicted one, how often, and in which share of the true one's cases.
    """
    wrong = confusion.counts * ~np.eye(len(confusion.counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    shares, labels = confusion.shares, confusion.labels
    cells = (divmod(int(index), len(wrong)) for index in order)
    return [
        (labels[row], labels[column], int(wrong[row, column]), float(shares[row, column]))
        for row, column in cells
        if wrong[row, column]
    ]


def plot_confusion(confusion: Confusion) -> Figure:
    """Draw the matrix, each row in percent of what it counts."""
    size = len(confusion.labels)
    percent = 100 * confusion.shares
    side = 2.2 + 0.34 * max(size, 6)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(percent, cmap=COLOUR_MAP, vmin=0, vmax=100)
    names = [_short(name) for name in confusion.labels]
    panel.set_xticks(range(size), names, rotation=90)
    panel.set_yticks(range(size), names)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    if size <= WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(percent):
            if value >= 0.5:
                ink = "black" if value > 55 else "white"
                panel.text(
                    column, row, f"{value:.0f}", color=ink, ha="center", va="center", fontsize=8
                )
    figure.colorbar(image, label=f"% of the row's {confusion.unit}", shrink=0.8)
    return figure


def _short(name: str) -> str:
    return (
        name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )
