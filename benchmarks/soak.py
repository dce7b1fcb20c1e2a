"""Train and infer for a long time, and see whether memory, descriptors or time per step grow.

Each job runs in a process of its own: the demo detector's training by what tools/train.py calls,
with a validation and a checkpoint every epoch, and MMDetection's inference on images of many
sizes, by a PVT and a PVTv2 in turns. Steps are timed by the processor time of the job's process, so
that other work of the machine counts little. Jobs that are left out keep the results they have.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _paths
import numpy as np
from process_probe import Probe
from soak_statistics import fit_trend, thirds

from pvt_mm.allocator import tune_allocator
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import SCHEMA, as_table, write_json
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import run_tool

CONFIG = _paths.ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_demo.py"
SHORTEST = 0.1  # hours after the warm-up; what a job fills at first looks like growth
SIZES = 200  # of images for the inference: about as many as a data set has
SIDES = (64, 320)  # shortest and longest side of them, in pixels
# What of a sample is judged, and what the table calls it.
MEMORY = {
    "rss_mb": "resident",
    "allocated_mb": "allocated",
    "workers_pss_mb": "data loaders",
}


def train(seconds: float, probe: Probe) -> dict[str, Any]:
    """Train the demo detector until the first epoch that ends after so many seconds.

    Returns:
        What else is known: the bytes that mmengine's log of scalars holds, which grows by design.
    """
    from mmengine.hooks import Hook
    from mmengine.logging import MessageHub
    from mmengine.registry import HOOKS

    from pvt_mm.training.train import run_train

    @HOOKS.register_module()
    class SoakHook(Hook):
        priority = "LOWEST"

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.began = time.process_time()

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            probe.step(time.process_time() - self.began)

        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = probe.elapsed >= seconds

        def after_train(self, runner):
            probe.stop()  # before the data loaders end

    with tempfile.TemporaryDirectory() as folder:
        # Few images, so that epochs, validations and checkpoints follow each other quickly.
        os.environ["DEMO_ROOT"] = f"{folder}/data"
        make_demo_data(f"{folder}/data", DemoSpec(train=200, val=40))
        run_train(
            CONFIG,
            work_dir=f"{folder}/work",
            cfg_options={
                "train_cfg.max_epochs": 10_000,
                "train_cfg.val_interval": 1,
                "custom_hooks": [{"type": "SoakHook"}],
            },
        )
    scalars = MessageHub.get_current_instance().log_scalars.values()
    return {"history_bytes": sum(sum(array.nbytes for array in s.data) for s in scalars)}


def infer(seconds: float, probe: Probe) -> dict[str, Any]:
    """Detect objects in noise of changing size for so many seconds."""
    from mmdet.apis import inference_detector, init_detector
    from mmengine.config import Config

    models = []
    for backbone in (
        {"type": "pvt_mm.PVTv2", "arch": "b0"},
        # As wide as B0, so that the same neck fits, and quick enough for thousands of images.
        {
            "type": "pvt_mm.PVT",
            "arch": {"embed_dims": [32, 64, 160, 256], "depths": [2, 2, 2, 2]},
        },
    ):
        cfg = Config.fromfile(str(CONFIG))
        cfg.model.backbone = backbone
        cfg.model.test_cfg.score_thr = 0.0  # random weights find nothing with certainty
        cfg.test_dataloader.dataset.pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "scale_factor": 1.0},
            {"type": "PackDetInputs", "meta_keys": ("img_shape", "ori_shape", "scale_factor")},
        ]
        models.append(init_detector(cfg, palette="random", device="cpu"))
    draw = np.random.default_rng(0)
    sizes = draw.integers(*SIDES, (SIZES, 2), endpoint=True)
    while probe.elapsed < seconds:
        height, width = sizes[draw.integers(SIZES)]
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        began = time.process_time()
        inference_detector(models[probe.steps % len(models)], image)
        probe.step(time.process_time() - began)
    return {}


JOBS = {"training": train, "inference": infer}


def run_job(name: str, minutes: float, interval: float, pipe: Any) -> None:
    """Run one job in this process and send what was seen through the pipe."""
    tune_allocator()  # as the tools do
    with Probe(interval) as probe:
        extra = JOBS[name](60 * minutes, probe)
    samples = [asdict(sample) for sample in probe.samples]
    pipe.send({"minutes": probe.elapsed / 60, "steps": probe.steps, **extra, "samples": samples})


def run_apart(name: str, minutes: float, interval: float) -> dict[str, Any]:
    """Run one job in a fresh process.

    Raises:
        RuntimeError: If it failed; its own message is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_job, args=(name, minutes, interval, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"the {name} ended without a result") from None
    finally:
        process.join()


def judge(result: dict[str, Any], warmup: float) -> dict[str, Any]:
    """Work out the trends of one job.

    Args:
        result: What :func:`run_apart` returned.
        warmup: Share of the samples, from the first on, that does not count.
    """
    samples = result["samples"][int(warmup * len(result["samples"])) :]
    column = {key: [sample[key] for sample in samples] for key in samples[0]}
    hours = [seconds / 3600 for seconds in column["seconds"]]
    found: dict[str, Any] = {}
    for key in MEMORY:
        if any(column[key]):
            known = [(at, mb) for at, mb in zip(hours, column[key], strict=True) if mb is not None]
            trend = fit_trend(*zip(*known, strict=True))
            enough = hours[-1] - hours[0] >= SHORTEST
            verdict = trend.verdict if enough else "too short to tell"
            found[key] = {**asdict(trend), "verdict": verdict}
    for key in ("step_seconds", "descriptors", "threads", "workers"):
        found[key] = thirds([value for value in column[key] if value is not None])
    return found


def table(jobs: dict[str, Any]) -> str:
    """Put the trends of all jobs into a Markdown table."""
    rows = []
    for name, job in jobs.items():
        found = job["found"]
        first, final = found["step_seconds"]
        for key, kind in MEMORY.items():
            if key in found:
                label = f"{name}, {kind}"
                trend = found[key]
                interval = f"{trend['low']:+.1f} to {trend['high']:+.1f}"
                last = next(s[key] for s in reversed(job["samples"]) if s[key] is not None)
                row = [label, f"{job['minutes']:.0f}", str(job["steps"]), f"{last:.0f}"]
                row += [f"{trend['slope']:+.1f}", interval, trend["verdict"]]
                if key == "rss_mb":
                    row.append(f"{1e3 * first:.0f} ms, {1e3 * final:.0f} ms")
                    row += [
                        f"{a:.0f}, {b:.0f}" for a, b in (found["descriptors"], found["threads"])
                    ]
                rows.append(row + [""] * (10 - len(row)))
    header = ["job", "minutes", "steps", "MB at the end", "MB/h", "95 % interval", "verdict"]
    return as_table([*header, "step (processor time)", "descriptors", "threads"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default.

    Returns:
        The exit code: 0, 1 if something grows, or 2 for a mistake that stderr names.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-minutes", type=float, default=30, help="0 leaves it out")
    parser.add_argument("--inference-minutes", type=float, default=20, help="0 leaves it out")
    parser.add_argument("--interval", type=float, default=5, help="seconds between samples")
    parser.add_argument(
        "--warmup", type=float, default=0.25, help="share of the samples that does not count"
    )
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "soak.json")
    options = parser.parse_args(argv)
    content: dict[str, Any] = {"schema": SCHEMA, "jobs": {}}
    minutes = {"training": options.train_minutes, "inference": options.inference_minutes}
    names = [name for name in JOBS if minutes[name]]

    def act() -> None:
        if options.out.is_file():
            content.update(json.loads(options.out.read_text()))
        for name in names:
            machine = describe_machine()
            result = run_apart(name, minutes[name], options.interval)
            found = judge(result, options.warmup)
            content["jobs"][name] = {"machine": machine, "found": found, **result}
            write_json(options.out, content)
        print(table(content["jobs"]))
        print(
            "\nIn `step` (processor time), `descriptors` and `threads`: median of the first and of "
            "the last third."
        )

    if code := run_tool(act):
        return code
    verdicts = [
        trend["verdict"]
        for name in names
        for trend in content["jobs"][name]["found"].values()
        if isinstance(trend, dict)
    ]
    return int("grows" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
