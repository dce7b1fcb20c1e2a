"""Does a series grow? A slope, and how far noise that remembers lets one trust it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LIMIT", "Trend", "fit_trend", "thirds"]

LIMIT = 5.0  # MB an hour that a job may grow by
WIDEST = 50.0  # half-width of an interval, in MB an hour, that still says something
NEARLY_ONE = 0.999


@dataclass(frozen=True)
class Trend:
    """How much a series grows per unit of time.

    Args:
        slope: Best estimate.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of it.
    """

    slope: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``'flat'``, ``'grows'`` or ``'too short to tell'``, for slopes in MB an hour.

        It grows if the whole interval is above 0 and the slope above ``LIMIT``, and is flat
        otherwise, unless the interval is wider than ``WIDEST`` to both sides.
        """
        if self.low > 0 and self.slope > LIMIT:
            return "grows"
        return "flat" if (self.high - self.low) / 2 <= WIDEST else "too short to tell"


def fit_trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Fit a line whose errors are an AR(1) process, and give the slope's 95 % interval.

    Resident memory moves in steps and stays where it is, so that one sample tells little that the
    one before did not. Plain least squares would take each for news and be far too sure. Here the
    correlation of neighbours is estimated, corrected for its bias in short series with a trend,
    and removed from both sides before the fit (Prais and Winsten).

    Args:
        times: Evenly spaced.
        values: One for each.

    Raises:
        ValueError: If there are fewer than ten.
    """
    if len(values) < 10 or len(times) != len(values):
        raise ValueError(f"at least 10 pairs are needed, got {len(times)} and {len(values)}")
    y = np.asarray(values, dtype=np.float64)
    t = np.asarray(times, dtype=np.float64)
    x = np.stack([np.ones(len(t)), t - t.mean()], axis=1)
    rho = 0.0
    for _ in range(5):
        line = np.linalg.lstsq(_whiten(x, rho), _whiten(y, rho), rcond=None)[0]
        errors = y - x @ line
        power = errors[:-1] @ errors[:-1]
        found = errors[1:] @ errors[:-1] / power if power else 0.0
        rho = float(np.clip(found + (2 + 4 * found) / len(y), 0, NEARLY_ONE))
    design, target = _whiten(x, rho), _whiten(y, rho)
    line = np.linalg.lstsq(design, target, rcond=None)[0]
    errors = target - design @ line
    variance = errors @ errors / (len(y) - 2) * np.linalg.inv(design.T @ design)[1, 1]
    slope, margin = float(line[1]), 2.0 * float(np.sqrt(variance))
    return Trend(slope, slope - margin, slope + margin)


def _whiten(series: np.ndarray, rho: float) -> np.ndarray:
    """Remove the part of each row that the row before it explains."""
    return np.concatenate([np.sqrt(1 - rho**2) * series[:1], series[1:] - rho * series[:-1]])


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last third."""
    third = max(1, len(values) // 3)
    return float(np.median(values[:third])), float(np.median(values[-third:]))
