"""Measure training of whole detectors on real images, and where an iteration's time goes.

Variants of the run take turns in one process, a few iterations each, on the same images. Each
part's time is its own: what a part calls that is a part itself counts there only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _paths
import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from part_clock import PartClock, watch_detector

from pvt_mm.config.loading import drop_pretrained, load_config
from pvt_mm.costs.benchmark.configs import mmdet_backbone
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import SCHEMA, as_table, machine_lines, write_json
from pvt_mm.costs.benchmark.statistics import ratio_of_medians, summarise
from pvt_mm.errors import UserError, run_tool
from pvt_mm.training.amp import float32_boxes
from pvt_mm.training.speed import use_channels_last

JOBS = {
    "retinanet_pvt_v2_b0": (
        "retinanet_pvt_v2_b0_fpn_1x_coco.py",
        "mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py",
    ),
    # MMDetection has no Mask R-CNN on PVT: ours with its backbone.
    "mask_rcnn_pvt_s": ("mask_rcnn_pvt_s_fpn_1x_coco.py", None),
}
OPTIONS = ("channels_last", "compile", "compile_heads", "amp", "fused", "workers", "cv2_threads")
PARTS = (
    "data",
    "preprocess",
    "backbone",
    "neck",
    "heads",
    "assigners",
    "losses",
    "backward of neck and heads",
    "backward of backbone",
    "optimizer",
    "other",
)


class Variant:
    """One way to run a job, built and ready to iterate.

    Args:
        cfg: The config, data included.
        options: Names of ``OPTIONS`` that are on.
        batch: Images per iteration.
    """

    def __init__(self, cfg: Config, options: Sequence[str], batch: int) -> None:
        self.options = options
        self.clock = PartClock()
        init_default_scope("mmdet")
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.train()
        if "channels_last" in options:
            use_channels_last(self.model)
        self.optim_wrapper = self._optim_wrapper(cfg)
        self._compile()
        watch_detector(self.model, self.optim_wrapper, self.clock)

        loader = cfg.train_dataloader
        loader.batch_size = batch
        loader.num_workers = 1 if "workers" in options else 0
        loader.persistent_workers = "workers" in options
        self.batches = self._forever(Runner.build_dataloader(loader, seed=0))
        self.iterations = 0

    def _optim_wrapper(self, cfg: Config) -> Any:
        wanted = cfg.optim_wrapper
        if "fused" in self.options:
            wanted.optimizer.fused = True
        if "amp" in self.options:
            wanted.type = "pvt_mm.AmpOptimWrapper"
        wrapper = build_optim_wrapper(self.model, wanted)
        if getattr(wrapper, "cast_dtype", None) == torch.bfloat16:
            float32_boxes(self.model)  # as a training does
        return wrapper

    def _compile(self) -> None:
        # The compiled functions stay inside the clock's, which must not be compiled itself.
        names = ["backbone"] if "compile" in self.options else []
        if "compile_heads" in self.options:
            names += ["neck", "bbox_head", "rpn_head"]
        for name in names:
            if hasattr(self.model, name):
                part = getattr(self.model, name)
                part.forward = torch.compile(part.forward, dynamic=True)

    def _forever(self, loader: Any) -> Iterator[dict]:
        while True:
            yield from loader

    def iterate(self) -> dict[str, float]:
        """Do one iteration and return the seconds of its parts."""
        cv2.setNumThreads(-1 if "cv2_threads" in self.options else 0)
        self.clock.seconds = {}
        self.clock.run("other", self._iterate)
        self.iterations += 1
        return {part: self.clock.seconds.get(part, 0.0) for part in PARTS}

    def _iterate(self) -> None:
        data = self.clock.run("data", next, self.batches)
        with self.optim_wrapper.optim_context(self.model):
            data = self.model.data_preprocessor(data, True)
            losses = self.model(**data, mode="loss")
        parsed, _ = self.model.parse_losses(losses)
        self.optim_wrapper.update_params(parsed)


def job_config(job: str, coco: Path, ours: bool) -> Config:
    """The config of a job on a COCO-format folder, without pre-trained weights.

    Args:
        job: A key of ``JOBS``.
        coco: Folder with ``annotations/instances_train2017.json`` and ``train2017/``.
        ours: Our config, or MMDetection's.
    """
    own, theirs = JOBS[job]
    if ours or theirs is None:
        cfg = load_config(_paths.ROOT / "configs" / own)
    else:
        cfg = get_config(theirs, pretrained=False)
    drop_pretrained(cfg.model, "speed does not depend on the weights")
    cfg.model.backbone.pop("init_cfg", None)
    if not ours and theirs is None:
        cfg.model.backbone = mmdet_backbone(cfg.model.backbone)
    cfg.train_dataloader.dataset.data_root = str(coco) + "/"
    return cfg


def measure(
    job: str, coco: Path, variants: Sequence[str], batch: int, rounds: int, warmup: int
) -> dict[str, Any]:
    """Iterate all variants in turns.

    Args:
        job: A key of ``JOBS``.
        coco: The images.
        variants: ``'mmdet'``, ``'ours'``, or options joined by ``+``.
        batch: Images per iteration.
        rounds: Iterations of each that count.
        warmup: Iterations of each before them.

    Returns:
        Seconds of every part of every iteration, by variant.
    """
    built = {}
    for name in variants:
        print(f"... building {job}, {name}", file=sys.stderr, flush=True)
        options = () if name in ("mmdet", "ours") else tuple(name.split("+"))
        unknown = [option for option in options if option not in OPTIONS]
        if unknown:
            raise UserError(f"--variants {name}: unknown are {', '.join(unknown)}")
        built[name] = Variant(job_config(job, coco, name != "mmdet"), options, batch)
    found: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in PARTS} for name in variants
    }
    for turn in range(warmup + rounds):
        shift = turn % len(variants)
        for name in [*variants[shift:], *variants[:shift]]:
            seconds = built[name].iterate()
            if turn >= warmup:
                for part, value in seconds.items():
                    found[name][part].append(float(f"{value:.6g}"))
            print(f"... {name}: {sum(seconds.values()):.2f} s", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Seconds of parts by variant, their totals and iterations/s, as Markdown."""
    totals = {
        name: [sum(each) for each in zip(*parts.values(), strict=True)]
        for name, parts in found.items()
    }
    base = totals.get("mmdet") or next(iter(totals.values()))
    rows = []
    for name, parts in found.items():
        total = summarise(totals[name])
        gain = ratio_of_medians(base, totals[name])
        rows.append(
            [name]
            + [f"{np.median(parts[part]):.3f}" for part in PARTS]
            + [f"{total.median:.2f}", f"{total.q1:.2f} to {total.q3:.2f}"]
            + [f"{1 / total.median:.3f}", f"{gain.value:.2f} ({gain.q1:.2f} to {gain.q3:.2f})"]
        )
    header = ["variant", *PARTS, "seconds", "quartiles", "iterations/s", "speed-up"]
    return as_table(header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coco", type=Path, help="folder in COCO's layout")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["mmdet", "ours", *OPTIONS],
        help=f"mmdet, ours, or options joined by +: {', '.join(OPTIONS)}",
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "whole_job.json")
    options = parser.parse_args(argv)

    def act() -> None:
        annotations = options.coco / "annotations" / "instances_train2017.json"
        if not annotations.is_file():
            raise UserError(f"{annotations} not found; give a folder in COCO's layout")
        if options.threads:
            torch.set_num_threads(options.threads)
        MMLogger.get_current_instance().setLevel("WARNING")  # else every weight is a line
        content: dict[str, Any] = {"schema": SCHEMA, "jobs": {}}
        if options.out.is_file():
            content = json.loads(options.out.read_text())
        for job in options.jobs:
            machine = describe_machine()
            found = measure(
                job,
                options.coco,
                options.variants,
                options.batch,
                options.rounds,
                options.warmup,
            )
            content["jobs"][job] = {
                "machine": machine,
                "batch": options.batch,
                "seconds": found,
            }
            write_json(options.out, content)
            print(f"{machine_lines(machine)}\n\n{job}, batch {options.batch}\n\n{table(found)}\n")

    return run_tool(act)


if __name__ == "__main__":
    sys.exit(main())
