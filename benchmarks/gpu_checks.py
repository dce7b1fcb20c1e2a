"""Check on a GPU, in one call of a few minutes, that it computes what the CPU does.

    python benchmarks/gpu_checks.py

mmcv's operators against the CPU's, features and gradients of every backbone against the plain
modules on the CPU, autocast and torch.compile against float32, the Triton kernel against float64,
and short trainings of a detector, an instance segmenter and a semantic segmenter by the tools, the
detector's first loss against the same training on the CPU. Prints a table and exits with 1 if
something is wrong. `--device cpu` tries the script on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import _paths
import kernels
import torch
from gpu_backbones import check
from gpu_operators import check_operators
from gpu_report import check_table

from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import SCHEMA, machine_lines, write_json
from pvt_mm.errors import UserError, run_tool
from pvt_mm.visualization.curves import read_run

# Compiling takes half a minute a model: one of each kind of attention.
COMPILED = ("pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li")
STEPS = 8
ONE_EPOCH, ENOUGH = "train_cfg.max_epochs=1", f"train_cfg.max_iters={STEPS}"
TRAININGS = {  # a demo config, where it ends, and whether its losses are those of the CPU
    "RetinaNet": ("retinanet_pvt_v2_b0_fpn_demo.py", ONE_EPOCH, True),
    "Mask R-CNN": ("mask_rcnn_pvt_v2_b0_fpn_demo.py", ONE_EPOCH, False),  # samples at random
    "Semantic FPN": ("fpn_pvt_v2_b0_demo.py", ENOUGH, False),  # drops out at random
}
# Of the first step's loss, whose convolutions may use TF32; later steps magnify the difference.
FIRST_LOSS = 5e-3

Rows = list[dict[str, Any]]


def check_backbones(device: str, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Every backbone in float32 and under autocast, some of them compiled."""
    dtypes = ["float32", "bfloat16"] + ["float16"] * (device == "cuda")
    for model in ARCHS:
        ways = [("eager", dtype) for dtype in dtypes]
        ways += [("compile", "bfloat16")] * (model in COMPILED)
        case = Case(model, shape, 2, "backward", "float32", device)
        yield from check(case, ways, "inductor")


def check_kernels(device: str, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The Triton kernel against float64, at the sizes of PVTv2-B2's stages."""
    if device != "cuda":
        return
    for (stride, channels), name in ((s, d) for s in kernels.STAGES for d in kernels.DTYPES):
        hw = (shape[0] // stride, shape[1] // stride)
        torch.manual_seed(0)
        errors = kernels.largest_errors(hw, channels, kernels.DTYPES[name], device)
        result = errors.pop("result")
        worst = max(errors.values())
        yield {
            "model": f"convolution + GELU, {hw[0]}x{hw[1]}x{channels}",
            "what": f"Triton, {name}, against float64",
            "features": result,
            "gradients": worst,
            "passed": max(result, worst) <= kernels.ALLOWED[name],
        }


def check_trainings(device: str, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Some steps of real trainings, in float32 and with ``--amp``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = ("--out", str(folder / "data"), "--train", str(2 * STEPS), "--val", "4")
        run("tools/make_demo_data.py", *data)
        for title, (config, end, compared) in TRAININGS.items():
            losses = losses_of(config, end, device, folder)
            expected = losses_of(config, end, "cpu", folder)[0] if compared else None
            yield judge(title, "float32", losses, expected)
            if device == "cuda":  # a CPU's autocast is in the test suite
                losses = losses_of(config, end, device, folder, "--amp")
                yield judge(title, "--amp", losses, None)


def judge(name: str, what: str, losses: list[float], expected: float | None) -> dict[str, Any]:
    """A training's row: all losses finite, the first one as on the CPU."""
    row: dict[str, Any] = {"model": name, "passed": len(losses) == STEPS}
    row["passed"] &= all(map(math.isfinite, losses))
    row["what"] = f"training, {what}, loss {losses[0]:.3f} to {losses[-1]:.3f}"
    if expected is not None:
        row["features"] = abs(losses[0] - expected) / expected
        row["passed"] &= row["features"] <= FIRST_LOSS
    return row


def losses_of(config: str, end: str, device: str, folder: Path, *options: str) -> list[float]:
    """Train by the tool and read the loss of every step.

    Args:
        config: Name of a config for the demo data.
        end: The option that ends the training.
        device: ``'cpu'`` hides all GPUs from the training.
        folder: Holds the data, and gets the training's output.
        options: For the tool.
    """
    work = folder / "-".join((config, device, *options))
    changes = ["train_dataloader.batch_size=2", "default_hooks.logger.interval=1", end]
    changes += ["model.backbone.drop_path_rate=0.0", "randomness.seed=0"]
    variables = {"DEMO_ROOT": str(folder / "data")}
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = "-1"
    arguments = (f"configs/{config}", "--work-dir", str(work), *options, "--cfg-options", *changes)
    run("tools/train.py", *arguments, **variables)
    return list(read_run(work).training["loss"].values())


def run(tool: str, *arguments: str, **variables: str) -> None:
    """Run one of the project's tools.

    Raises:
        RuntimeError: If it fails, with the end of its output.
    """
    done = subprocess.run(
        [sys.executable, tool, *arguments],
        cwd=_paths.ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])


def _operators(device: str, shape: tuple[int, int]) -> Rows:
    return check_operators(device)


GROUPS: dict[str, Callable[[str, tuple[int, int]], Rows | Iterator[dict[str, Any]]]] = {
    "operators": _operators,
    "kernels": check_kernels,
    "backbones": check_backbones,
    "trainings": check_trainings,
}


def check_all(groups: Sequence[str], device: str, shape: tuple[int, int], out: Path | None) -> Rows:
    """Run groups of checks and print their table; a group that fails is a row of it.

    Raises:
        UserError: If there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch finds no GPU; try the script with --device cpu")
    rows: Rows = []
    machine = describe_machine(device)
    start = time.monotonic()

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        if out:
            write_json(out, {"schema": SCHEMA, "machine": machine, "checks": rows})

    for group in groups:
        try:
            for row in GROUPS[group](device, shape):
                keep(row)
        except Exception as error:  # what the other groups found must not be lost
            print(error, file=sys.stderr)
            reason = str(error).strip().splitlines() or [repr(error)]
            keep({"model": group, "what": "ended", "error": reason[-1][:200]})
        spent = time.monotonic() - start
        print(f"... {group} done after {spent:.0f} s", file=sys.stderr, flush=True)
    failed = sum(not row.get("passed") for row in rows)
    print(machine_lines(machine), check_table(rows), sep="\n\n")
    print(f"\n{len(rows) - failed} passed, {failed} failed in {time.monotonic() - start:.0f} s")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default.

    Returns:
        0, 1 if a check failed, 2 for a mistake that stderr names in one line.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all by default")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--shape", nargs=2, type=int, default=[256, 352], metavar=("HEIGHT", "WIDTH"))
    add("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args(argv)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    found: Rows = []

    def act() -> None:
        groups = options.groups or list(GROUPS)
        found.extend(check_all(groups, options.device, tuple(options.shape), options.out))

    code = run_tool(act)
    return code or int(not all(row.get("passed") for row in found))


if __name__ == "__main__":
    sys.exit(main())
