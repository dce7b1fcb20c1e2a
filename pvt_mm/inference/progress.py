"""How far the work is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

__all__ = ["Progress"]

INTERVAL = 10.0  # seconds between lines


class Progress:
    """Shows on stderr how many images are done, and how many a second.

    Args:
        total: How many there are; for videos an estimate.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"))
            rate = TextColumn("{task.fields[rate]:.1f} images/s")
            self._bar = Bar(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total, rate=0.0)

    def __enter__(self) -> Progress:
        self.start = self._last = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def advance(self, count: int) -> None:
        """Count images that were done or skipped."""
        self.done += count
        self.total = max(self.total, self.done)
        if self._bar:
            self._bar.update(self._task, completed=self.done, total=self.total, rate=self.rate)
        elif time.monotonic() - self._last > INTERVAL:
            self._last = time.monotonic()
            print(f"{self.done} of {self.total} images, {self.rate:.1f} images/s", file=sys.stderr)

    @property
    def seconds(self) -> float:
        """The time since the work began."""
        return time.monotonic() - self.start

    @property
    def rate(self) -> float:
        """Images a second, on average."""
        return self.done / max(self.seconds, 1e-9)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
