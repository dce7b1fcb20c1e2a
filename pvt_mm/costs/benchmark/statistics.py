"""Medians, their spread, and ratios of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Ratio", "Summary", "ratio_of_medians", "summarise"]


@dataclass(frozen=True)
class Summary:
    """Repetitions of one measurement; the unit is that of the samples.

    Args:
        median: Middle value.
        minimum: Smallest value, the least disturbed one.
        q1: First quartile.
        q3: Third quartile.
        count: Number of repetitions.
    """

    median: float
    minimum: float
    q1: float
    q3: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """How many times more one contender takes than another.

    Args:
        value: Ratio of the medians.
        q1: First quartile of the ratios within each round.
        q3: Third quartile of the same.
    """

    value: float
    q1: float
    q3: float


def summarise(samples: Sequence[float]) -> Summary:
    """Median, minimum and quartiles of repeated measurements.

    Raises:
        ValueError: If there are none.
    """
    if not len(samples):
        raise ValueError("no samples to summarise")
    q1, median, q3 = np.quantile(np.asarray(samples, dtype=np.float64), (0.25, 0.5, 0.75))
    return Summary(float(median), float(min(samples)), float(q1), float(q3), len(samples))


def ratio_of_medians(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """How many times ``theirs`` is ``ours``, by the medians.

    The spread is that of the ratios within each round: contenders of one round ran one after the
    other, so that a machine that is slow for a while slows both.

    Args:
        theirs: One value a round.
        ours: One value a round, of the same rounds.

    Raises:
        ValueError: If there is nothing to compare or the rounds differ in number.
    """
    if len(theirs) != len(ours):
        raise ValueError(f"{len(theirs)} rounds cannot be paired with {len(ours)}")
    numerator, denominator = summarise(theirs), summarise(ours)
    rounds = summarise([a / b for a, b in zip(theirs, ours, strict=True)])
    return Ratio(numerator.median / denominator.median, rounds.q1, rounds.q3)
