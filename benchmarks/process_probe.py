"""What this process and its children hold, read from Linux's /proc and from glibc."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["Probe", "Sample"]

MB = 1e6


@dataclass(frozen=True)
class Sample:
    """One look at a process.

    Attributes:
        seconds: Since the probe began.
        rss_mb: Resident memory of the process, in MB.
        allocated_mb: What the program has asked malloc for and not freed, in MB: the median at the
            ends of the steps since the sample before. None if there was no step or no glibc. The
            difference to ``rss_mb`` is code, Python's own arenas and what glibc keeps for later.
        workers_pss_mb: That of its children, in MB; a page counts by the share they have in it.
        workers: Number of children.
        descriptors: Open descriptors of the process.
        threads: Threads of the process, without the one that looks.
        step_seconds: Median time of the steps since the sample before; None if there was none.
    """

    seconds: float
    rss_mb: float
    allocated_mb: float | None
    workers_pss_mb: float
    workers: int
    descriptors: int
    threads: int
    step_seconds: float | None


class Probe:
    """Looks at this process at even intervals, from a thread of its own.

    Used as a context manager: the block is what is looked at.

    Args:
        interval: Seconds between samples.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.samples: list[Sample] = []
        self.steps = 0
        # Seconds of each step since the last sample, and what was allocated at its end.
        self._recent: list[tuple[float, float | None]] = []
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    @property
    def elapsed(self) -> float:
        """Seconds since the probe was made."""
        return time.monotonic() - self._start

    def step(self, seconds: float) -> None:
        """Note that a step took so long."""
        allocated = _allocated()  # takes a while where much is
        with self._lock:
            self.steps += 1
            self._recent.append((seconds, allocated))

    def _watch(self) -> None:
        while not self._stop.wait(self.interval - self.elapsed % self.interval):
            if self.steps:  # before the first one the job is being built
                self.samples.append(self._look())

    def _look(self) -> Sample:
        with self._lock:
            recent, self._recent = self._recent, []
        children = _children()
        times = [seconds for seconds, _ in recent]
        allocated = [size for _, size in recent if size is not None]
        return Sample(
            seconds=round(self.elapsed, 2),
            rss_mb=_memory("self", "Rss"),
            allocated_mb=round(median(allocated), 3) if allocated else None,
            workers_pss_mb=sum(_memory(child, "Pss") for child in children),
            workers=len(children),
            # Listing them opens one more.
            descriptors=len(os.listdir("/proc/self/fd")) - 1,
            threads=len(os.listdir("/proc/self/task")) - 1,
            step_seconds=round(median(times), 5) if times else None,
        )


class _Mallinfo2(ctypes.Structure):
    """glibc's ``struct mallinfo2``, from malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _allocated() -> float | None:
    """MB in blocks in use, those of the arenas and those with a mapping of their own."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:  # another C library, or glibc before 2.33
        return None
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return (info.uordblks + info.hblkhd) / MB


def _children() -> list[str]:
    lists = Path("/proc/self/task").glob("*/children")
    return [child for path in lists for child in path.read_text().split()]


def _memory(process: str, kind: str) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0
    # One that has ended, but not been waited for, has no lines.
    kibibytes = next((line.split()[1] for line in lines if line.startswith(f"{kind}:")), 0)
    return int(kibibytes) * 1024 / MB
