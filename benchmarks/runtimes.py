"""Measure exported backbones in ONNX Runtime beside eager PyTorch, in one process, taking turns.

The name is not onnx.py, which would hide the package of that name from the scripts in this folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import _paths
import numpy as np
import onnxruntime
import torch

from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import SCHEMA, as_table, machine_lines, write_json
from pvt_mm.costs.benchmark.statistics import ratio_of_medians, summarise
from pvt_mm.costs.complexity import build_arch
from pvt_mm.errors import run_tool
from pvt_mm.export import backbone_exportable, export_model

MODELS = ("pvt_small", "pvt_v2_b1", "pvt_v2_b2", "pvt_v2_b2_li")
SHAPES = ("224x224", "800x1344")
WARM_UP = 2


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load a graph for so many threads, which rest while PyTorch has its turn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def take_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time each call once a round; the next round starts with another one."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Export a backbone with random weights and time it at each shape."""
    torch.manual_seed(0)
    backbone = build_arch(name)
    backbone.init_weights()
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for opset, standard in product(options.opsets, sorted({False, options.standard})):
            title = f"onnxruntime, opset {opset}{', standard' if standard else ''}"
            path = Path(folder) / f"{title}.onnx"
            export_model(backbone_exportable(backbone), path, opset=opset, standard=standard)
            sessions[title] = open_session(path, torch.get_num_threads())
    results = []
    for shape in options.shapes:
        images = torch.randn(1, 3, *map(int, shape.split("x")))
        feed = {"images": images.numpy()}
        calls: dict[str, Callable[[], Any]] = {"eager": lambda x=images: backbone(x)}
        with torch.inference_mode():
            expected = [one.numpy() for one in backbone(images)]
            differences = {}
            for title, session in sessions.items():
                calls[title] = lambda s=session, x=feed: s.run(None, x)
                pairs = zip(expected, calls[title](), strict=True)
                differences[title] = max(float(np.abs(a - b).max()) for a, b in pairs)
            seconds = take_turns(calls, options.rounds)
        results.append(
            {"model": name, "shape": shape, "seconds": seconds, "differences": differences}
        )
        print(render(results[-1:]), flush=True)
    return results


def render(results: list[dict[str, Any]]) -> str:
    """Tabulate medians and how many times eager's an exported graph takes."""
    rows = []
    for result in results:
        eager = result["seconds"]["eager"]
        for title, seconds in result["seconds"].items():
            time_ = summarise(seconds)
            ratio = ratio_of_medians(seconds, eager)
            difference = result["differences"].get(title)
            rows.append(
                [
                    result["model"],
                    result["shape"],
                    title,
                    f"{time_.median * 1e3:.4g}",
                    f"{time_.minimum * 1e3:.4g}",
                    f"{ratio.value:.2f} ({ratio.q1:.2f} to {ratio.q3:.2f})",
                    "" if difference is None else f"{difference:.1e}",
                ]
            )
    header = ("backbone", "input", "by", "median, ms", "min, ms", "x eager", "difference")
    return as_table(header, rows)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="HxW")
    parser.add_argument("--opsets", nargs="+", type=int, default=[23])
    parser.add_argument("--standard", action="store_true", help="standard operators, too")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "onnx.json")
    options = parser.parse_args()

    def run() -> None:
        machine = describe_machine()
        machine["versions"]["onnxruntime"] = onnxruntime.__version__
        print(machine_lines(machine), flush=True)
        results = []
        for name in options.models:
            results += measure(name, options)
            content = {"schema": SCHEMA, "machine": machine, "results": results}
            write_json(options.out, content)
        print(render(results))

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
