"""Measure what runs a backbone on a CPU: PyTorch in four ways, ONNX Runtime and OpenVINO.

All in one process, with the allocator tuned, taking turns. Everything is made as the tools make it:
files for images of any size, `--compile` and `--dtype bfloat16` as in `tools/infer.py`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _paths
import numpy as np
import torch
from torch import nn

from pvt_mm.allocator import tune_allocator
from pvt_mm.costs.benchmark.contenders import Unavailable, build_backbone
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import SCHEMA, as_table, machine_lines, write_json
from pvt_mm.costs.benchmark.statistics import ratio_of_medians, summarise
from pvt_mm.costs.benchmark.timing import time_interleaved
from pvt_mm.costs.complexity import build_arch
from pvt_mm.devices import has_bfloat16
from pvt_mm.errors import UserError, run_tool
from pvt_mm.export import backbone_exportable, export_model
from pvt_mm.export.openvino import Calibration
from pvt_mm.kernels import accelerate
from pvt_mm.runtimes import open_session
from pvt_mm.training.amp import compute_in_bfloat16
from pvt_mm.training.speed import compile_backbone

MODELS = ("pvt_small", "pvt_v2_b0", "pvt_v2_b2", "pvt_v2_b2_li")
SHAPES = ("224x224", "800x1344")
FIRST = "PyTorch, plain"
THEIRS = "MMDetection's own"
IMAGES = 4  # that int8 is fitted to, random as those that are measured
Run = Callable[[torch.Tensor], list[np.ndarray]]


class Holder(nn.Module):
    """The backbone as part of a model, as the tools' steps expect it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).eval()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Make the maps."""
        return self.backbone(images)


def in_pytorch(backbone: nn.Module, dtype: str, fast: bool = False, compiled: bool = False) -> Run:
    """Run a copy of the backbone in one of PyTorch's ways."""
    model = Holder(backbone)
    if fast:
        accelerate(model, prepack=True)
    if dtype == "bfloat16":
        compute_in_bfloat16(model, "cpu")
    if compiled:
        compile_backbone(model, inference=True)
    return lambda images: [one.float().numpy() for one in model(images)]


def in_file(
    backbone: nn.Module,
    path: Path,
    dtype: str = "float32",
    standard: bool = False,
    calibration: Calibration | None = None,
) -> Run:
    """Run an exported file of the backbone, which is written if it is not there.

    Args:
        backbone: What is exported.
        path: The file.
        dtype: What it is read in.
        standard: Whether with standard operators only.
        calibration: What int8 is fitted to; the file is in float32 without.
    """
    if not path.exists():
        format = {".onnx": "onnx", ".xml": "openvino"}[path.suffix]
        options = {"dtype": "int8", "calibration": calibration} if calibration else {}
        export_model(backbone_exportable(backbone), path, format, standard=standard, **options)
    session = open_session(path, dtype)

    def run(images: torch.Tensor) -> list[np.ndarray]:
        return list(session.run({"images": images.numpy()}).values())

    return run


def in_mmdet(name: str) -> Run:
    """Run MMDetection's module of the same architecture, with weights of its own."""
    theirs = build_backbone("mmdet", name, (224, 224)).module.eval()
    return lambda images: [one.numpy() for one in theirs(images)]


def int8_in_file(backbone: nn.Module, path: Path) -> Run:
    """Run the backbone in int8, fitted to random images."""
    inputs = [{"images": torch.randn(1, 3, 224, 224).numpy()} for _ in range(IMAGES)]
    return in_file(backbone, path, calibration=Calibration(inputs))


def ways(name: str, backbone: nn.Module, folder: Path) -> dict[str, Callable[[], Run]]:
    """All that can run a backbone here, by name: what makes it ready."""
    bf16 = "bfloat16"
    makers = {
        FIRST: partial(in_pytorch, backbone, "float32"),
        "PyTorch, accelerated": partial(in_pytorch, backbone, "float32", fast=True),
        "PyTorch, compiled": partial(in_pytorch, backbone, "float32", compiled=True),
        "ONNX Runtime": partial(in_file, backbone, folder / "own.onnx"),
        "ONNX Runtime, standard": partial(
            in_file, backbone, folder / "standard.onnx", standard=True
        ),
        "OpenVINO": partial(in_file, backbone, folder / "own.xml"),
    }
    if has_bfloat16("cpu"):
        makers |= {
            "PyTorch, accelerated, bfloat16": partial(in_pytorch, backbone, bf16, fast=True),
            "PyTorch, bfloat16, compiled": partial(in_pytorch, backbone, bf16, compiled=True),
            "OpenVINO, bfloat16": partial(in_file, backbone, folder / "own.xml", bf16),
        }
    if find_spec("nncf"):
        makers["OpenVINO, int8"] = partial(int8_in_file, backbone, folder / "int8.xml")
    makers[THEIRS] = partial(in_mmdet, name)
    return makers


def check_names(makers: Mapping[str, object], groups: Sequence[Sequence[str] | None]) -> None:
    """Check all names before anything is measured.

    Raises:
        UserError: If one is unknown here.
    """
    for name in (name for names in groups for name in names or ()):
        if name not in makers:
            raise UserError(f"--ways {name!r} is unknown here; there are: {'; '.join(makers)}")


def chosen(makers: dict[str, Callable[[], Run]], names: Sequence[str] | None) -> dict[str, Run]:
    """Make the named ways ready, or all that there are.

    Raises:
        UserError: If one that was named cannot take part.
    """
    runs = {}
    for name in names or makers:
        try:
            runs[name] = makers[name]()
        except Unavailable as reason:
            if names:
                raise UserError(f"--ways {name!r} cannot run: {reason}") from reason
    return runs


def measure(
    name: str, shapes: Sequence[str], rounds: int, groups: Sequence[Sequence[str] | None] = (None,)
) -> list[dict[str, Any]]:
    """Time a backbone with random weights at each shape; the ways of a group take turns."""
    torch.manual_seed(0)
    backbone = build_arch(name).eval()
    backbone.init_weights()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        makers = ways(name, backbone, Path(folder))
        check_names(makers, groups)
        for names in groups:
            runs = chosen(makers, names)
            plain = runs.get(FIRST) or makers[FIRST]()
            for shape in shapes:
                images = torch.randn(1, 3, *map(int, shape.split("x")))
                found = time_and_compare(runs, plain, images, rounds)
                results.append({"model": name, "shape": shape, **found})
                print(render(results[-1:]), flush=True)
    return results


@torch.inference_mode()
def time_and_compare(
    runs: dict[str, Run], plain: Run, images: torch.Tensor, rounds: int
) -> dict[str, Any]:
    """Find the seconds of each way, and the largest difference from the plain modules' maps."""
    expected = plain(images)
    differences = {
        way: max(
            float(np.abs(a - b).max() / np.abs(a).max())
            for a, b in zip(expected, run(images), strict=True)
        )
        for way, run in runs.items()
        if way not in (FIRST, THEIRS)
    }
    calls = {way: lambda run=run: run(images) for way, run in runs.items()}
    return {"seconds": time_interleaved(calls, rounds).seconds, "differences": differences}


def render(results: Sequence[dict[str, Any]]) -> str:
    """Tabulate medians, and each way's time over that of the first one of its input."""
    rows = []
    for result in results:
        first, base = next(iter(result["seconds"].items()))
        for way, seconds in result["seconds"].items():
            time_ = summarise(seconds)
            ratio = ratio_of_medians(seconds, base)
            difference = result["differences"].get(way)
            rows.append(
                [
                    result["model"],
                    result["shape"],
                    way,
                    f"{time_.median * 1e3:.4g}",
                    f"{time_.minimum * 1e3:.4g}",
                    f"{ratio.value:.2f} ({ratio.q1:.2f} to {ratio.q3:.2f})" if way != first else "",
                    "" if difference is None else f"{difference:.1e}",
                ]
            )
    header = ("backbone", "input", "by", "median, ms", "min, ms", "x first", "difference")
    return as_table(header, rows)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="HxW")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--ways",
        nargs="+",
        action="append",
        metavar="NAME",
        help="only these take turns, named as in the table; given again, these do after the others",
    )
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "runtimes.json")
    options = parser.parse_args()

    def run() -> None:
        machine = describe_machine()
        machine["versions"] |= {name: version(name) for name in ("onnxruntime", "openvino")}
        print(machine_lines(machine), flush=True)
        tune_allocator()
        results = []
        for name in options.models:
            results += measure(name, options.shapes, options.rounds, options.ways or [None])
            content = {"schema": SCHEMA, "machine": machine, "results": results}
            write_json(options.out, content)
        print(render(results))

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
