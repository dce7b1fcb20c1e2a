"""Check this project in the environment of the interpreter that runs this script.

    OTHER_ENVIRONMENT/bin/python tests/robustness/versions.py

Tests first: features against the authors' golden values, layers, checkpoints, loading by name.
Then jobs, through the tools, on a handful of images: train a detector and a segmentor, go on from
a checkpoint, test. A job whose packages are not there is left out. Needs pytest and hypothesis.
The last line is a row for the table in docs/versions.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmsegmentation")
FORKS = {"mmdet": "onedl-mmdetection"}  # the others are onedl-NAME

# Tests that need torch and mmengine only.
TESTS = (
    *("features", "backbones", "attention", "fast_blocks", "kernels", "classification"),
    *("safe_load", "bad_weights", "pretrained", "convert", "hub"),
)
WITH_MMDET = ("key_mapping", "registry", "stack")
# The first torch that can do what these tests ask for; docs/versions.md says what that is.
SINCE = {
    "2.4": (
        "test_fast_blocks.py::test_what_a_large_map_keeps_for_the_backward_pass",
        "test_kernels.py::test_benchmark_without_a_gpu",
        "test_kernels.py::test_when_the_kernel_is_installed",
        "test_kernels.py::test_which_tokens_the_kernel_serves",
    ),
    "2.6": (
        "test_backbones.py::test_exports_with_torch_export",
        "test_pretrained.py::test_loading_maps_the_file_and_copies_it",
        "test_safe_load.py",  # half of it plays a torch >= 2.6, which an older one cannot
    ),
}


class Job(NamedTuple):
    """A training in two halves, and the test of what came out.

    Attributes:
        needs: What it imports.
        config: Name of a demo config.
        halves: The option that ends the first half, and that which ends the second.
        checkpoint: What the second half leaves.
        metric: What the test reports.
        test_options: What else the test is told.
    """

    needs: tuple[str, ...]
    config: str
    halves: tuple[str, str]
    checkpoint: str
    metric: str
    test_options: tuple[str, ...] = ()


JOBS = {
    "detection": Job(
        ("mmcv.ops", "mmdet"),
        "retinanet_pvt_v2_b0_fpn_demo.py",
        ("train_cfg.max_epochs=1", "train_cfg.max_epochs=2"),
        "epoch_2.pth",
        "coco/bbox_mAP",
        # So early nothing is certain, and without any detection there is no metric.
        ("--cfg-options", "model.test_cfg.score_thr=0.0"),
    ),
    "segmentation": Job(
        ("mmcv.ops", "mmseg"),
        "fpn_pvt_v2_b0_demo.py",
        ("train_cfg.max_iters=4", "train_cfg.max_iters=8"),
        "iter_8.pth",
        "mIoU",
    ),
}
EVERY_JOB = (
    *("train_dataloader.batch_size=2", "val_dataloader.batch_size=2"),
    *("default_hooks.checkpoint.interval=1", "default_hooks.logger.interval=1"),
    "randomness.seed=0",
)


def run(*command: str, **variables: str) -> str:
    """Run a Python program of this checkout by this interpreter and return what it printed.

    Raises:
        RuntimeError: If it fails, with the end of its output.
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", **variables}
    merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environ, **merged)
    if done.returncode:
        raise RuntimeError(done.stdout[-6000:])
    return done.stdout


def works(module: str) -> bool:
    """Whether a module imports, in a process of its own."""
    try:
        run("-c", f"import {module}")
    except RuntimeError:
        return False
    return True


def run_tests() -> str:
    """Run the tests that fit this environment; returns pytest's summary.

    Raises:
        RuntimeError: If one fails.
    """
    import torch
    from packaging.version import Version

    names = TESTS + (WITH_MMDET if works("mmdet") else ())
    files = [f"tests/test_{name}.py" for name in names]
    installed = Version(torch.__version__)
    too_new = [
        f"--deselect=tests/{test}"
        for since, tests in SINCE.items()
        if installed < Version(since)
        for test in tests
    ]
    options = ("-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow")
    # Some tests want silence from tools, which warn of every package that is not there.
    quiet = {"PYTHONWARNINGS": "ignore:pvt_mm"}
    return run("-m", "pytest", *options, *too_new, *files, **quiet).splitlines()[-1]


def run_job(job: Job, folder: Path) -> str:
    """Train, go on, test; returns the losses at the start and at the end, and the metric.

    Raises:
        RuntimeError: If a tool fails, or if a loss is not finite.
    """
    config, work = f"configs/{job.config}", folder / job.metric.replace("/", "_")
    data = {"DEMO_ROOT": str(folder / "data")}
    for half, resume in zip(job.halves, ((), ("--resume",)), strict=True):
        options = ("--work-dir", str(work), *resume, "--cfg-options", *EVERY_JOB, half)
        run("tools/train.py", config, *options, **data)
    lines = [line for log in sorted(work.glob("*/vis_data/scalars.json")) for line in log.open()]
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    if len(losses) != 8 or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"expected 8 finite losses, got {losses}")
    options = ("--work-dir", str(work), *job.test_options)
    shown = run("tools/test.py", config, str(work / job.checkpoint), *options, **data)
    metric = re.search(rf"{job.metric}: +(-?[\d.]+)", shown)
    if metric is None:
        raise RuntimeError(f"no {job.metric} in: {shown[-2000:]}")
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}, {job.metric} {float(metric[1]):.3f}"


def installed_version(name: str) -> str:
    """The version of a package, or of its maintained fork."""
    for candidate in (name, FORKS.get(name, f"onedl-{name}")):
        try:
            return version(candidate) + (" (OneDL)" if candidate != name else "")
        except PackageNotFoundError:
            continue
    return "-"


def main() -> int:
    """Run the checks; returns the exit code, 1 if one failed."""
    names = ("tests", *JOBS)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(names)}; all by default")
    chosen = parser.parse_args().checks or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    row = [platform.python_version(), *map(installed_version, PACKAGES)]
    failed = False

    def check(name: str, action: Callable[[], str]) -> None:
        nonlocal failed
        try:
            row.append(action())
        except RuntimeError as error:
            failed = True
            row.append("FAILED")
            print(error)
        print(f"{name}: {row[-1]}", flush=True)

    if "tests" in chosen:
        check("tests", run_tests)
    else:
        row.append("-")
    with tempfile.TemporaryDirectory() as folder:
        data = ("--out", f"{folder}/data", "--train", "8", "--val", "4")
        run("tools/make_demo_data.py", *data)
        for name, job in JOBS.items():
            if name in chosen and all(map(works, job.needs)):
                check(name, lambda job=job: run_job(job, Path(folder)))
            else:
                row.append("-")
    print(f"| {' | '.join(row)} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
