"""Check and measure the backbones on a GPU, in one call.

First the checks: features and gradients of every precision and way to run against eager float32
on the same device, and that against the CPU. Then speed and memory of every cell of the grid,
contenders interleaved. A cell that runs out of memory, or that a contender cannot do, says so and
the rest goes on. Cells that the results hold already are not measured again.

Everything but CUDA graphs runs on a CPU too, to try the script: --device cpu --shape 64 96.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import _paths
import torch
from gpu_backbones import EXECUTIONS, check, executed, precise
from gpu_report import show
from torch import Tensor, nn

from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import DTYPES, Case
from pvt_mm.costs.benchmark.contenders import CONTENDERS, Unavailable, build_backbone
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.peers import enter_peers, peers_python
from pvt_mm.costs.benchmark.report import (
    SCHEMA,
    result_entry,
    write_json,
)
from pvt_mm.costs.benchmark.roofline import GPU_PEAKS, Peak
from pvt_mm.costs.benchmark.steps import backbone_step, make_image
from pvt_mm.costs.benchmark.timing import time_interleaved
from pvt_mm.errors import UserError, run_tool


def graphed(step: Callable[[], Tensor]) -> Callable[[], None]:
    """Capture a step as a CUDA graph.

    Args:
        step: Does one step, always on the same tensors.

    Returns:
        Replays it.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def cells(options: argparse.Namespace) -> Iterator[tuple[str, Case, str]]:
    """Key, case and execution of every cell, what is quick to start first."""
    grid = product(
        options.executions, options.models, options.modes, options.dtypes, options.batches
    )
    for execution, model, mode, dtype, batch in grid:
        case = Case(model, tuple(options.shape), batch, mode, dtype, options.device)
        yield f"{model} {mode} {dtype} batch {batch} {execution}", case, execution


def measure_cell(
    case: Case, execution: str, contenders: Sequence[str], repeats: int, backend: str
) -> dict[str, dict[str, Any]]:
    """Time and memory of one cell, by contender."""
    precise(case.device, tf32=True)
    torch._dynamo.reset()
    entries: dict[str, dict[str, Any]] = {}
    steps, memory = {}, {}
    image = make_image(case)
    for name in contenders:
        entries[name] = result_entry()
        try:
            built = build_backbone(name, case.model, case.shape)
            module = built.module.to(case.device)
            called = executed(module, execution, backend)
            step = backbone_step(called, image, case, fused=case.device == "cuda")
            entries[name]["detail"] = built.detail
            memory[name] = _peak_memory(step, module, case)
            steps[name] = graphed(step) if execution == "graphs" else step
        except Unavailable as error:
            entries[name]["error"] = str(error)
        except torch.cuda.OutOfMemoryError:
            entries[name]["error"] = "out of memory"
        except Exception as error:  # a row of the table, not its end
            entries[name]["error"] = f"{type(error).__name__}: {error}"[:200]
        if case.device == "cuda":
            torch.cuda.empty_cache()
    on_gpu = case.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else None
    timings = time_interleaved(steps, repeats, warmup=3, synchronize=wait)
    for name in steps:
        entries[name] = result_entry(
            timings.seconds.get(name),
            timings.calls.get(name, 0),
            memory[name],
            entries[name]["detail"],
            timings.errors.get(name, ""),
        )
    return entries


def _peak_memory(step: Callable[[], Tensor], module: nn.Module, case: Case) -> list[int]:
    """Bytes that a step needs at most, weights included; the other contenders' do not count."""
    step()  # what is allocated once: kernels' workspaces, optimizer state
    if case.device != "cuda":
        return []
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    weights = sum(each.numel() * each.element_size() for each in module.parameters())
    return [torch.cuda.max_memory_allocated() - before + weights]


def find_peak(device: str, flops: float | None, bandwidth: float | None) -> Peak | None:
    """What the device can do: from the command line, or from the table of GPUs."""
    if flops and bandwidth:
        return Peak(flops * 1e12, bandwidth * 1e12)
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in GPU_PEAKS.items() if key in name), None)


def run(options: argparse.Namespace) -> bool:
    """Check, measure, write and print.

    Returns:
        Whether all checks passed.

    Raises:
        UserError: If there is no such device.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch finds no GPU; try the script with --device cpu --shape 64 96")
    start = time.monotonic()
    peak = find_peak(options.device, options.peak_tflops, options.peak_tbytes)
    content: dict[str, Any] = {"schema": SCHEMA, "cells": {}}
    if options.out.is_file() and not options.again:
        content = json.loads(options.out.read_text())
    content["machine"] = describe_machine(options.device)
    content["peak"] = vars(peak) if peak else None
    content["checks"] = []
    for model in () if options.no_checks else options.models:
        case = Case(model, tuple(options.shape), 2, "backward", "float32", options.device)
        ways = product(options.executions, options.dtypes)
        content["checks"] += check(case, ways, options.backend)
        write_json(options.out, content)
    for key, case, execution in cells(options):
        if key in content["cells"]:
            continue
        if options.budget and time.monotonic() - start > options.budget:
            print("... out of time; the same command goes on from here", file=sys.stderr)
            break
        print(f"... {key}", file=sys.stderr, flush=True)
        entries = measure_cell(
            case, execution, options.contenders, options.repeats, options.backend
        )
        content["cells"][key] = {"case": case.to_dict(), "contenders": entries}
        write_json(options.out, content)
    print(show(content))
    return all(each.get("passed") for each in content["checks"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default.

    Returns:
        0, 1 if a check failed, 2 for a mistake that stderr names in one line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=ARCHS, default=["pvt_v2_b2"], metavar="ARCH")
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    add("--modes", nargs="+", choices=("inference", "backward", "train"))
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--executions", nargs="+", choices=EXECUTIONS, default=list(EXECUTIONS))
    add("--batches", "--batch", nargs="+", type=int, default=[1, 2, 16])
    add("--shape", nargs=2, type=int, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--repeats", type=int, default=7)
    add("--backend", default="inductor", help="of torch.compile")
    add("--budget", type=float, help="begin no cell after so many seconds")
    add("--peak-tflops", type=float, help="dense bfloat16 TFLOP/s, for a GPU not in the table")
    add("--peak-tbytes", type=float, help="memory bandwidth in TB/s, likewise")
    add("--no-checks", action="store_true")
    add("--again", action="store_true", help="forget the results that are there")
    add("--out", type=Path, default=_paths.RESULTS / "gpu.json")
    parser.set_defaults(modes=["inference", "backward"])
    options = parser.parse_args(arguments)
    passed = []

    def act() -> None:
        # On a machine without them the table says that they are not installed.
        if peers_python().is_file():
            enter_peers(options.contenders, [str(Path(__file__).resolve()), *arguments])
        passed.append(run(options))

    code = run_tool(act)
    return code or (0 if passed == [True] else 1)


if __name__ == "__main__":
    sys.exit(main())
