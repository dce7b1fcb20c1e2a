"""Estimating memory and time of training, from the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from prettytable import PrettyTable

from pvt_mm.cli import CommandLine, Namespace
from pvt_mm.config.loading import load_config, walk
from pvt_mm.config.models import scales_of, task_of, usual_shape
from pvt_mm.costs.measured import measured
from pvt_mm.costs.memory.activations import NotCounted
from pvt_mm.costs.memory.estimate import GIB, Estimate, estimate
from pvt_mm.costs.memory.hours import training_hours, training_images
from pvt_mm.errors import UserError, run_tool

__all__ = ["main", "train_shape"]

COCO_SCALE = (1333, 800)  # as mmdet writes it, in pixels
FIELDS = ("weights", "gradients", "optimizer", "activations", "overhead", "total")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/estimate_memory.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "estimate_memory.py",
        "Estimate the memory that training takes on each GPU, in GiB, and the hours; "
        "no GPU is needed. docs/scaling.md says how, and how well it fits.",
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    parser.add_argument("--batch", type=int, metavar="N", help="images on each GPU")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="GPUs; default 8")
    parser.add_shape(
        "largest images in pixels; by default what a detector's images are resized to, "
        "512 512 for segmentors, 224 224 for classifiers"
    )
    parser.add_flag("--amp", "mixed precision")
    parser.add_cfg_options()
    parser.add_flag("--table", "the table of docs/scaling.md, in Markdown")
    args = parser.parse_args(argv)
    return run_tool(lambda: print("\n".join(table(args.configs)) if args.table else _render(args)))


def train_shape(cfg: Config) -> tuple[int, int]:
    """Tell the height and width of the largest images that a recipe trains on, in pixels."""
    if task_of(cfg) != "detection":
        return usual_shape(cfg, COCO_SCALE)
    pipelines = [node["pipeline"] for _, node in walk(cfg.train_dataloader) if "pipeline" in node]
    scales = [scale for pipeline in pipelines for scale in _scales(pipeline)]
    short, long = sorted(max(scales, default=COCO_SCALE, key=math.prod))
    return _round_up(short), _round_up(long)


def _scales(pipeline: Sequence[Mapping[str, Any]]) -> list[Sequence[int]]:
    """Find the sizes that a pipeline's last resizing gives, in each of its branches."""
    for step in reversed(pipeline):
        if step.get("type") == "RandomChoice":
            return [scale for branch in step["transforms"] for scale in _scales(branch)]
        if scales := scales_of(step):
            return scales
    return []


def _round_up(side: int, multiple: int = 32) -> int:
    return -(-side // multiple) * multiple


def _render(args: Namespace) -> PrettyTable:
    for name in ("batch", "gpus"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    rows = PrettyTable(["config", "input", "batch", *FIELDS], align="r")
    rows.align["config"] = "l"
    for path in args.configs:
        cfg = load_config(path, args.cfg_options)
        shape = tuple(args.shape) if args.shape else train_shape(cfg)
        batch = args.batch or cfg.train_dataloader.batch_size
        found = estimate(cfg, shape, batch, args.gpus, args.amp or None)
        figures = [_gib(found, field) for field in FIELDS]
        rows.add_row([Path(path).stem, "x".join(map(str, shape)), batch, *figures])
    return rows


def _gib(found: Estimate, field: str = "total") -> str:
    return f"{getattr(found, field) / GIB:.1f}"


def table(paths: Sequence[str], gpus: int = 8) -> list[str]:
    """Make the lines of a Markdown table of memory and hours.

    Args:
        paths: Configs of the model zoo.
        gpus: GPUs.
    """
    lines = ["| config | images per GPU | GiB | GiB with `with_cp` | hours |", "|" + " --- |" * 5]
    for path in paths:
        cfg = load_config(path)
        name, batch, shape = Path(path).stem, cfg.train_dataloader.batch_size, train_shape(cfg)
        try:
            plain = _gib(estimate(cfg, shape, batch, gpus))
            cfg.model.backbone.with_cp = True
            least = _gib(estimate(cfg, shape, batch, gpus))
        except NotCounted:
            plain = least = "not estimated"
        images = training_images(cfg, gpus)
        counted = measured()["recipes"][name]["flops"]
        if cfg.get("default_scope") == "mmdet":  # counted at the usual size
            counted = counted * math.prod(shape) // math.prod(map(_round_up, COCO_SCALE))
        hours = training_hours(counted, images, gpus)
        lines.append(f"| `{name}` | {batch} | {plain} | {least} | {hours:.0f} |")
    return lines
