"""Measure what each trick of the fast modules is worth on this CPU: all of them but one, in turns.

The allocator is tuned throughout. Times are interleaved in one process, peak memory is that of a
process for each row. Cells that the results hold already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch
from weakref import WeakKeyDictionary

import _paths
import torch

from pvt_mm.allocator import tune_allocator
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.memory import STEPS, peak_of
from pvt_mm.costs.benchmark.report import SCHEMA, as_table, machine_lines, result_entry, write_json
from pvt_mm.costs.benchmark.statistics import ratio_of_medians, summarise
from pvt_mm.costs.benchmark.timing import time_interleaved
from pvt_mm.costs.benchmark.workloads import import_contender, prepare
from pvt_mm.errors import UserError, run_tool
from pvt_mm.kernels.cpu.processor import fused_attention_is_slow

NEVER = 2**62
ALL = "all"
NONE = "none: plain modules"
CPU = "pvt_mm.kernels.cpu"
# Blocks are bound to prepacked weights.
UNBOUND = {
    "pvt_mm.kernels.modules.find": lambda *args: None,
    "pvt_mm.kernels.modules.bind": lambda *args: None,
}
# What is replaced to leave a trick out. Each name is where the code that uses it looks it up.
TRICKS = {
    "without bands": {f"{CPU}.bands.LARGE_BYTES": NEVER},
    "without prepacked weights": {
        "pvt_mm.kernels.modules.prepack": lambda *args: None,
        **UNBOUND,
    },
    "without bound blocks": UNBOUND,
    "GELU kept with its result": {f"{CPU}.recompute.SMALL_BYTES": NEVER},
    "with recomputation": {"pvt_mm.kernels.modules.FastMlp.recompute": True},
    "without own linear layers": {
        f"{CPU}.linear.FEWEST_TOKENS": NEVER,
        f"{CPU}.linear.mkl_is_slow": lambda: False,
    },
    # Tiles serve where PyTorch's attention is slow; elsewhere the question is what they would cost.
    "other choice of tiles": {
        f"{CPU}.dot_product.fused_attention_is_slow": lambda dtype: (
            not fused_attention_is_slow(dtype)
        )
    },
    "without checks of each call": {
        "pvt_mm.kernels.modules.is_recording": lambda: False,
        "pvt_mm.kernels.modules.obstacle": lambda module, known=(): "",
        f"{CPU}.bands.is_recording": lambda: False,
        f"{CPU}.linear.is_recording": lambda: False,
        f"{CPU}.prepacked.is_recording": lambda: False,
        f"{CPU}.bound.BoundBlock.fits": lambda *args: True,
    },
    # A fast module that is recorded computes as the plain one.
    NONE: {
        "pvt_mm.kernels.modules.is_recording": lambda: True,
        f"{CPU}.bands.is_recording": lambda: True,
        f"{CPU}.linear.is_recording": lambda: True,
    },
}
ONLY = {
    "without bands": "inference",
    "without prepacked weights": "inference",
    "without bound blocks": "inference",
    "with recomputation": "train",
    "GELU kept with its result": "train",
}
SHAPES = ((224, 224), (512, 512), (800, 1344))
HEADER = ("model", "mode", "input", "tricks", "median", "x time", "memory", "x memory")


def ways(mode: str) -> list[str]:
    """The rows of a cell: all tricks, each one left out that the mode has, and none."""
    return [ALL, *(name for name in TRICKS if ONLY.get(name, mode) == mode)]


def step_of(way: str, step: Callable[[], object]) -> Callable[[], object]:
    """A step of the fast backbone with the tricks of ``way``.

    All ways share one backbone: where its weights lie in memory makes some percent. What its blocks
    are bound to is each way's own.
    """
    bound: WeakKeyDictionary = WeakKeyDictionary()

    def run() -> object:
        with ExitStack() as stack:
            stack.enter_context(patch(f"{CPU}.bound._bound", bound))
            for target, value in TRICKS.get(way, {}).items():
                stack.enter_context(patch(target, value))
            return step()

    return run


def measure_memory(way: str, case: Case) -> int:
    """Peak bytes of some steps in a new process.

    Raises:
        UserError: If that process fails.
    """
    command = [sys.executable, __file__, "--memory-of", way, json.dumps(case.to_dict())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"memory of {way}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def memory_here(way: str, spec: str) -> int:
    """What :func:`measure_memory` starts: the peak in this process."""
    case = Case.from_dict(json.loads(spec))
    tune_allocator()
    import_contender("pvt_mm", case)

    def run() -> None:
        step = step_of(way, prepare("pvt_mm", case).step)
        for _ in range(STEPS):
            step()

    return peak_of(run)


def measure(models: Sequence[str], repeats: int, out: Path, again: bool) -> None:
    """Measure all cells that ``out`` lacks, and write each as soon as it is done."""
    content = {"machine": describe_machine(), "cells": {}}
    if out.is_file() and not again:
        content = json.loads(out.read_text())
    content["schema"] = SCHEMA
    tune_allocator()
    for case in (
        Case(model, shape, mode=mode)
        for model in models
        for shape in SHAPES
        for mode in ("inference", "train")
    ):
        if case.label in content["cells"]:
            continue
        names = ways(case.mode)
        step = prepare("pvt_mm", case).step
        timings = time_interleaved({way: step_of(way, step) for way in names}, repeats)
        cell = {
            way: result_entry(
                timings.seconds.get(way),
                timings.calls.get(way, 0),
                [measure_memory(way, case)],
                error=timings.errors.get(way, ""),
            )
            for way in names
        }
        content["cells"][case.label] = {"case": case.to_dict(), "ways": cell}
        write_json(out, content)
        print(f"\n{as_table(HEADER, rows(content['cells'][case.label]))}", flush=True)


def rows(cell: dict) -> list[list[str]]:
    """A row for each way of a cell; ratios are to all tricks: above 1 the trick gains."""
    case, entries = cell["case"], cell["ways"]
    reference = entries[ALL]
    made = []
    for way, entry in entries.items():
        row = [case["model"], case["mode"], "{}x{}".format(*case["shape"]), way]
        if entry["error"]:
            made.append([*row, entry["error"], "", "", ""])
            continue
        ratio = ratio_of_medians(entry["seconds"], reference["seconds"])
        memory = entry["memory_bytes"][0]
        row.append(f"{1e3 * summarise(entry['seconds']).median:.4g} ms")
        row.append(f"{ratio.value:.2f} ({ratio.q1:.2f} to {ratio.q3:.2f})" if way != ALL else "")
        row.append(f"{memory / 1e6:.0f} MB")
        row.append(f"{memory / reference['memory_bytes'][0]:.2f}" if way != ALL else "")
        made.append(row)
    return made


def show(content: dict) -> str:
    """All cells as one table, with the machine."""
    lines = [row for cell in content["cells"].values() for row in rows(cell)]
    return f"{machine_lines(content['machine'])}\n\n{as_table(HEADER, lines)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["pvt_v2_b2"], metavar="ARCH")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="measure what is there already too")
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "tricks.json")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        print(memory_here(*options.memory_of))
        return 0
    return run_tool(lambda: measure(options.models, options.repeats, options.out, options.again))


if __name__ == "__main__":
    sys.exit(main())
