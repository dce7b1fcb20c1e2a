"""The results of gpu.py as tables."""

from __future__ import annotations

from typing import Any

import _paths  # noqa: F401

from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.report import as_table, machine_lines, result_entry
from pvt_mm.costs.benchmark.roofline import Peak, floor_seconds, macs, moved_bytes
from pvt_mm.costs.benchmark.statistics import ratio_of_medians, summarise

HEADER = (
    "cell",
    "contender",
    "time (quartiles)",
    "images/s",
    "memory",
    "TFLOP/s",
    "of bf16 peak",
    "of bandwidth",
    "of floor",
    "x time",
    "x memory",
)


def rows(key: str, cell: dict[str, Any], peak: dict[str, float] | None) -> list[list[str]]:
    """A row of the table for each contender of a cell."""
    case = Case.from_dict(cell["case"])
    train = case.mode != "inference"
    arch = ARCHS[case.model]
    element = 4 if case.dtype == "float32" else 2
    flops = 2 * macs(arch, case.shape, case.batch) * (3 if train else 1)
    moved = moved_bytes(arch, case.shape, case.batch, element, train)
    ours = cell["contenders"].get("pvt_mm", result_entry())
    made = []
    for name, entry in cell["contenders"].items():
        row = [key, name]
        if not entry["seconds"]:
            made.append(row + [entry["error"]] + [""] * 8)
            continue
        spent = summarise(entry["seconds"])
        memory = entry["memory_bytes"]
        row += [f"{spent.median * 1e3:.2f} ms ({spent.q1 * 1e3:.2f} to {spent.q3 * 1e3:.2f})"]
        row += [f"{case.batch / spent.median:.1f}", f"{memory[0] / 1e6:.0f} MB" if memory else ""]
        row += [f"{flops / spent.median / 1e12:.3g}"]
        if peak:
            limits = Peak(**peak)
            floor = floor_seconds(arch, case.shape, case.batch, limits, element, train)
            row += [f"{100 * flops / spent.median / limits.flops:.1f} %"]
            row += [f"{100 * moved / spent.median / limits.bandwidth:.1f} %"]
            row += [f"{100 * floor / spent.median:.1f} %"]
        else:
            row += ["", "", ""]
        slower = less = ""
        if name != "pvt_mm" and len(ours["seconds"]) == len(entry["seconds"]):
            slower = f"{ratio_of_medians(entry['seconds'], ours['seconds']).value:.2f}"
        if name != "pvt_mm" and memory and ours["memory_bytes"]:
            less = f"{ours['memory_bytes'][0] / memory[0]:.2f}"
        made.append([*row, slower, less])
    return made


def check_table(checks: list[dict[str, Any]]) -> str:
    """The checks' rows as Markdown."""
    listed = [
        [
            each["model"],
            each["what"],
            *(f"{each[k]:.2g}" if k in each else "" for k in ("features", "gradients")),
            each.get("error") or ("passed" if each["passed"] else "FAILED"),
        ]
        for each in checks
    ]
    header = ("model", "what", "error of features", "error of gradients", "verdict")
    return as_table(header, listed)


def show(content: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    parts = [machine_lines(content["machine"])]
    if content["checks"]:
        parts.append(check_table(content["checks"]))
    lines = [
        row for key, cell in content["cells"].items() for row in rows(key, cell, content["peak"])
    ]
    if lines:
        parts.append(as_table(HEADER, lines))
    return "\n\n".join(parts)
