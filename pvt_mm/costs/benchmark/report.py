"""Results as JSON and as tables that are made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.roofline import BACKWARD, macs
from pvt_mm.costs.benchmark.statistics import ratio_of_medians, summarise
from pvt_mm.files import replacing

__all__ = [
    "SCHEMA",
    "as_table",
    "case_rows",
    "gemm_seconds",
    "machine_lines",
    "result_entry",
    "write_json",
]

SCHEMA = 2
COLUMNS = (
    "contender",
    "median",
    "quartiles",
    "images/s",
    "of GEMM",
    "x time",
    "memory",
    "x memory",
    "as started",
    "x time, as started",
    "memory, as started",
)


def result_entry(
    seconds: Sequence[float] | None = None,
    calls: int = 0,
    memory: Sequence[int] | None = None,
    detail: str = "",
    error: str = "",
) -> dict[str, Any]:
    """What JSON holds of one contender in one case.

    Args:
        seconds: Seconds of one step, one value a round.
        calls: Steps that one value is the mean of.
        memory: Peak bytes, one value a process.
        detail: What a reader should know of how it ran.
        error: Why there is no figure, or not all.
    """
    return {
        "seconds": [float(f"{value:.6g}") for value in seconds or ()],
        "calls": calls,
        "memory_bytes": list(memory or ()),
        "detail": detail,
        "error": error,
    }


def case_rows(
    result: dict[str, Any], ours: str = "pvt_mm", gemm_flops: dict[str, float] | None = None
) -> list[list[str]]:
    """The table of one case: a row for each contender, with ratios to ``ours``.

    Args:
        result: ``{"case": ..., "contenders": {name: entry}}``, measured as the process starts, and
            with the allocator tuned ``"tuned": {name: entry}``, which then leads.
        ours: What the others are compared with.
        gemm_flops: See :func:`.gemm.gemm_rates`.
    """
    case = Case.from_dict(result["case"])
    first, tuned = result["contenders"], result.get("tuned")
    leading = tuned or first
    reference = leading.get(ours, result_entry())
    started = first.get(ours, result_entry())
    rows = []
    for name, entry in leading.items():
        row = [name + (f" ({entry['detail']})" if entry["detail"] else "")]
        if entry["seconds"]:
            time = summarise(entry["seconds"])
            row += [
                _seconds(time.median),
                f"{_seconds(time.q1)} to {_seconds(time.q3)}",
                f"{case.batch / time.median:.3g}",
                _share_of_gemm(case, time.median, gemm_flops or {}),
            ]
        else:
            row += [entry["error"] or "not timed", "", "", ""]
        row.append(_time_ratio(entry, reference) if name != ours else "")
        row.append(_megabytes(entry))
        row.append(_memory_ratio(entry, reference) if name != ours else "")
        if tuned:
            before = first[name]
            seconds = before["seconds"]
            row.append(_seconds(summarise(seconds).median) if seconds else before["error"])
            row.append(_time_ratio(before, started) if name != ours else "")
            row.append(_megabytes(before))
        else:
            row += ["", "", ""]
        rows.append(row)
    return rows


def gemm_seconds(case: Case, rates: dict[str, float]) -> float | None:
    """The operations of an ideal implementation, at the rate of large products.

    Args:
        case: What is measured.
        rates: See :func:`.gemm.gemm_rates`.

    Returns:
        Seconds; None for a config, and where no rate is of the case's type.
    """
    fitting = [rate for name, rate in rates.items() if name.startswith(case.dtype)]
    if case.is_config or not fitting:
        return None
    count = 2 * macs(ARCHS[case.model], case.shape, case.batch)
    if case.mode != "inference":
        count *= BACKWARD
    return count / max(fitting)


def _share_of_gemm(case: Case, seconds: float, rates: dict[str, float]) -> str:
    least = gemm_seconds(case, rates)
    return "" if least is None else f"{100 * least / seconds:.0f} %"


def _time_ratio(entry: dict[str, Any], reference: dict[str, Any]) -> str:
    if not entry["seconds"] or len(entry["seconds"]) != len(reference["seconds"]):
        return ""
    ratio = ratio_of_medians(entry["seconds"], reference["seconds"])
    return f"{ratio.value:.2f} ({ratio.q1:.2f} to {ratio.q3:.2f})"


def _memory_ratio(entry: dict[str, Any], reference: dict[str, Any]) -> str:
    """Our share of their memory, as the goals are stated."""
    if not entry["memory_bytes"] or not reference["memory_bytes"]:
        return ""
    theirs, ours = summarise(entry["memory_bytes"]), summarise(reference["memory_bytes"])
    return f"{ours.median / theirs.median:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _megabytes(entry: dict[str, Any]) -> str:
    if not entry["memory_bytes"]:
        return ""
    return f"{summarise(entry['memory_bytes']).median / 1e6:.0f} MB"


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; empty columns are left out."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)] or [0]
    cells = [[header[i] for i in kept]] + [[str(row[i]) for i in kept] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(kept))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * max(width, 3) for width in widths) + " |")
    return "\n".join(lines)


def machine_lines(machine: dict[str, Any]) -> str:
    """One paragraph on where the figures come from."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    place = machine.get("gpu") or machine["processor"]
    if "gpu" not in machine and "instructions" in machine:
        place = f"{place} with {machine['instructions']}"
    rates = ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s in {name}"
        for name, rate in machine.get("gemm_flops", {}).items()
    )
    return (
        f"{place}, {machine['cores']} cores, {machine['threads']} threads, "
        f"load {machine['load']} at the start; {versions}."
        + (f" Matrix products: {rates}." if rates else "")
    )


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write a report whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
