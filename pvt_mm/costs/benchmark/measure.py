"""One case measured for all contenders."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.contenders import Unavailable
from pvt_mm.costs.benchmark.memory import MemoryFailure, measure_memory
from pvt_mm.costs.benchmark.report import result_entry
from pvt_mm.costs.benchmark.timing import time_interleaved
from pvt_mm.costs.benchmark.workloads import prepare

__all__ = ["measure_case"]


def measure_case(
    case: Case,
    contenders: Sequence[str],
    repeats: int = 7,
    memory_repeats: int = 0,
    plain: bool = False,
    tuned: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time all contenders in this process, interleaved, and their memory in processes of their own.

    Args:
        case: What to measure.
        contenders: Who takes part, ``'pvt_mm'`` among them if ratios are wanted.
        repeats: Rounds of timing; 0 measures no time.
        memory_repeats: Processes for each contender's memory; 0 measures none.
        plain: With ``case.with_cp``, let pvt_mm take part without it as well.
        tuned: Whether the processes that measure memory call :func:`pvt_mm.tune_allocator` first;
            before the timing that is the caller's.
        progress: Told in a line what is done.

    Returns:
        ``{"case": ..., "contenders": {name: entry}}``, see :func:`.report.result_entry`.
    """
    cases = {name: case for name in contenders}
    if plain and case.with_cp and "pvt_mm" in cases:
        cases["pvt_mm without with_cp"] = replace(case, with_cp=False)
    entries = {name: result_entry() for name in cases}
    if repeats:
        _time(cases, entries, repeats, progress)
    for name, own in cases.items():
        if memory_repeats and not entries[name]["error"]:
            progress(f"memory of {name}")
            try:
                entries[name]["memory_bytes"] = [
                    measure_memory(own, name.partition(" ")[0], tuned)
                    for _ in range(memory_repeats)
                ]
            except MemoryFailure as error:
                entries[name]["error"] = str(error)
    return {"case": case.to_dict(), "contenders": entries}


def _time(
    cases: dict[str, Case],
    entries: dict[str, dict[str, Any]],
    repeats: int,
    progress: Callable[[str], None],
) -> None:
    workloads = {}
    for name, case in cases.items():
        progress(f"building {name}")
        try:
            workloads[name] = prepare(name.partition(" ")[0], case)
        except Unavailable as error:
            entries[name]["error"] = str(error)
    progress(f"timing {', '.join(workloads)}: {repeats} rounds")
    on_gpu = any(case.device == "cuda" for case in cases.values())
    timings = time_interleaved(
        {name: workload.step for name, workload in workloads.items()},
        repeats,
        synchronize=torch.cuda.synchronize if on_gpu else None,
    )
    for name, workload in workloads.items():
        entries[name] = result_entry(
            timings.seconds.get(name),
            timings.calls.get(name, 0),
            detail=workload.detail,
            error=timings.errors.get(name, ""),
        )
    workloads.clear()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
