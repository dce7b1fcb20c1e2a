"""Measure what a step's operators take alone: the floor under pvt_mm's time on this CPU.

Every operator that a step calls is timed by itself, with the step's shapes and types, inputs in the
cache where they fit, and the smallest of many times counts. The sum is what PyTorch's kernels allow
at their best; what a step takes beyond it goes into Python, calls and memory that another operator
used last. The operation count over the rate of a large product is the time that is left if all
else were free.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _paths
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pvt_mm.allocator import tune_allocator
from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.gemm import gemm_rates, higher_rates
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import (
    SCHEMA,
    as_table,
    gemm_seconds,
    machine_lines,
    write_json,
)
from pvt_mm.costs.benchmark.timing import time_interleaved
from pvt_mm.costs.benchmark.workloads import prepare

SECONDS = 0.25  # of trying an operator
MOST_TRIES = 60
STEPS = (
    ("inference", (224, 224)),
    ("inference", (800, 1344)),
    ("backward", (512, 512)),
    ("backward", (800, 1344)),
)
GROUPS = {  # by what the name of an operator holds, in this order
    "attention": ("attention", "softmax", "bmm"),
    "products": ("linear", "conv", "mm", "reorder"),
    "activations": ("gelu", "relu"),
    "norms": ("norm",),
}
HEADER = (
    "model",
    "mode",
    "input",
    "type",
    "smallest step",
    "operators alone",
    *GROUPS,
    "rest",
    "at GEMM",
)


class Alone(TorchDispatchMode):
    """Times each operator that is called, by itself, once for all calls with such inputs."""

    def __init__(self, seconds: float = SECONDS) -> None:
        super().__init__()
        self._limit = seconds
        self._best: dict[tuple, float] = {}
        self.total: Counter[str] = Counter()  # seconds by operator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Time ``func``, then call it."""
        kwargs = kwargs or {}
        name = func.name().partition("::")[2].partition(".")[0]
        if not func.is_view and not name.startswith(("empty", "new_empty", "detach")):
            key = (name, _signature(args), _signature(tuple(kwargs.values())))
            if key not in self._best:
                self._best[key] = self._time(func, args, kwargs)
            self.total[name] += self._best[key]
        return func(*args, **kwargs)

    def _time(self, func: Any, args: tuple, kwargs: dict) -> float:
        """The smallest time of a call; what an operator changes are copies."""
        mutable = func._schema.is_mutable
        args = tuple(_copy(each) for each in args) if mutable else args
        kwargs = {name: _copy(each) for name, each in kwargs.items()} if mutable else kwargs
        best, tries, end = float("inf"), 0, time.perf_counter() + self._limit
        while tries < 3 or (tries < MOST_TRIES and time.perf_counter() < end):
            start = time.perf_counter()
            func(*args, **kwargs)
            best, tries = min(best, time.perf_counter() - start), tries + 1
        return best


def _signature(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.layout
    if isinstance(value, (tuple, list)):
        return tuple(_signature(each) for each in value)
    return repr(value)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.layout == torch.strided else value
    return [_copy(each) for each in value] if isinstance(value, list) else value


def grouped(total: dict[str, float]) -> dict[str, float]:
    """Sum the seconds of operators by :data:`GROUPS`, others as ``rest``."""
    seconds = dict.fromkeys((*GROUPS, "rest"), 0.0)
    for name, value in total.items():
        words = ((group, word) for group, words in GROUPS.items() for word in words)
        seconds[next((group for group, word in words if word in name), "rest")] += value
    return seconds


def measure(cases: Sequence[Case], repeats: int, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure steps and their operators.

    Args:
        cases: What to measure.
        repeats: Steps of each, before its operators and after them: machines drift.
        seconds: For how long an operator is tried.

    Returns:
        What the JSON holds.
    """
    tune_allocator()
    machine = {**describe_machine(), "gemm_flops": gemm_rates()}
    content: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "cases": []}
    for case in cases:
        step: Callable[[], object] = prepare("pvt_mm", case).step
        before = time_interleaved({"step": step}, repeats).seconds["step"]
        with Alone(seconds) as alone:
            step()
        after = time_interleaved({"step": step}, repeats).seconds["step"]
        found = {
            "case": case.to_dict(),
            "steps": [*before, *after],
            "operators": dict(alone.total.most_common()),
        }
        content["cases"].append(found)
        print(" | ".join(row(found, machine["gemm_flops"])), flush=True)
    return content


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Take the smaller times and higher rates of two runs: other programs only slow one down.

    Cases that only the old one has stay.
    """
    rates = higher_rates(new["machine"]["gemm_flops"], old["machine"]["gemm_flops"])
    cases = {json.dumps(found["case"]): found for found in old["cases"]}
    for found in new["cases"]:
        key = json.dumps(found["case"])
        if key in cases:
            known = cases[key]
            found["steps"] = [*known["steps"], *found["steps"]]
            for name, value in known["operators"].items():
                found["operators"][name] = min(value, found["operators"].get(name, value))
        cases[key] = found
    machine = {**new["machine"], "gemm_flops": rates}
    return {**new, "machine": machine, "cases": list(cases.values())}


def row(found: dict[str, Any], gemm_flops: dict[str, float]) -> list[str]:
    """A case as a line of the table."""
    case, total = Case.from_dict(found["case"]), sum(found["operators"].values())
    step = min(found["steps"])  # as of the operators
    least = gemm_seconds(case, gemm_flops)
    return [
        case.model,
        case.mode,
        "{}x{}".format(*case.shape),
        case.dtype,
        f"{1e3 * step:.4g} ms",
        f"{1e3 * total:.4g} ms, {100 * total / step:.0f} %",
        *(f"{1e3 * each:.3g} ms" for each in grouped(found["operators"]).values()),
        "" if least is None else f"{1e3 * least:.4g} ms",
    ]


def show(content: dict[str, Any]) -> str:
    """All cases as a table, with the machine."""
    lines = [row(found, content["machine"]["gemm_flops"]) for found in content["cases"]]
    return f"{machine_lines(content['machine'])}\n\n{as_table(HEADER, lines)}"


def parse_step(text: str) -> tuple[str, tuple[int, int]]:
    """Read a step such as ``backward:800x1088``."""
    mode, _, shape = text.partition(":")
    height, width = map(int, shape.split("x"))
    return mode, (height, width)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=ARCHS, default=["pvt_v2_b2"])
    parser.add_argument(
        "--steps",
        nargs="+",
        type=parse_step,
        default=STEPS,
        metavar="MODE:HxW",
        help="as backward:800x1088",
    )
    parser.add_argument("--repeats", type=int, default=4, help="steps before, and after")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="forget the runs before")
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "floor.json")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = [
        Case(model, shape, mode=mode, dtype=dtype)
        for model in options.models
        for mode, shape in options.steps
        for dtype in ("float32", "bfloat16")
    ]
    content = measure(cases, options.repeats)
    if options.out.is_file() and not options.again:
        content = merge(json.loads(options.out.read_text()), content)
    write_json(options.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
