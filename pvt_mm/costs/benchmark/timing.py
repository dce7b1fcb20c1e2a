"""Interleaved timing of several callables in one process."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

__all__ = ["Timings", "time_interleaved"]

MAX_CALLS = 1000


@dataclass
class Timings:
    """What :func:`time_interleaved` found.

    Args:
        seconds: Seconds of one call, one value a round, by contender.
        calls: Calls that one value is the mean of, by contender.
        errors: Why a contender dropped out, by contender.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def time_interleaved(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int = 7,
    warmup: int = 2,
    min_sample_s: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], None] | None = None,
) -> Timings:
    """Time callables in rounds, so that a slow spell of the machine meets all of them.

    Every round calls every contender, each round starting with the next one. One that raises
    drops out with its error; the others go on.

    Args:
        contenders: What to call, by name.
        repeats: Rounds.
        warmup: Calls of each before the first round; their time counts for nothing else than
            the number of calls a sample needs.
        min_sample_s: Seconds that one sample lasts at least, by repeated calls.
        clock: Seconds since some moment.
        synchronize: Waits for the device; called before the clock is read.

    Raises:
        ValueError: If ``repeats`` or ``warmup`` is below 1.
    """
    if repeats < 1 or warmup < 1:
        raise ValueError(f"repeats and warmup must be at least 1, got {repeats} and {warmup}")
    wait = synchronize or (lambda: None)
    timings = Timings()

    def sample(name: str, calls: int) -> float:
        gc.collect()
        wait()
        start = clock()
        for _ in range(calls):
            contenders[name]()
        wait()
        return (clock() - start) / calls

    def attempt(name: str, calls: int) -> float | None:
        try:
            return sample(name, calls)
        except Exception as error:  # the others' figures are worth having all the same
            timings.errors[name] = _describe(error)
            timings.seconds.pop(name, None)
        # Outside the handler, where the traceback no longer keeps the failed step's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    for name in contenders:
        spent = None
        for _ in range(warmup):
            spent = attempt(name, 1)
            if spent is None:
                break
        if spent is not None:
            wanted = math.ceil(min_sample_s / max(spent, 1e-9))
            timings.calls[name] = min(max(wanted, 1), MAX_CALLS)
            timings.seconds[name] = []

    names = list(timings.seconds)
    # Else each sample's collection would look at all that was ever imported, and leave the caches
    # empty: milliseconds of its first call, the more the more of a contender is Python.
    gc.freeze()
    try:
        for turn in range(repeats):
            shift = turn % len(names) if names else 0
            for name in names[shift:] + names[:shift]:
                if name not in timings.seconds:
                    continue
                spent = attempt(name, timings.calls[name])
                if spent is not None:
                    timings.seconds[name].append(spent)
    finally:
        gc.unfreeze()
    return timings


def _describe(error: Exception) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"[:200]
