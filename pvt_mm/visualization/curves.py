"""Curves of one or several trainings, from the scalars that mmengine wrote."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pvt_mm.cli import CommandLine
from pvt_mm.errors import UserError, run_tool
from pvt_mm.visualization.figures import COLOURS, save_figure
from pvt_mm.wording import some

__all__ = ["Run", "main", "plot_runs", "read_run"]

# What mmengine logs beside losses and metrics.
NO_CURVES = {"step", "iter", "epoch", "data_time", "time", "memory"}
# Shown unless the user names others: as far as a run has them.
DEFAULT_KEYS = ("loss", "lr", "coco/bbox_mAP", "coco/segm_mAP", "mIoU", "accuracy/top1")

Curve = dict[float, float]  # from iteration or epoch to value


@dataclass(frozen=True)
class Run:
    """The logged scalars of one training.

    Args:
        name: What the legend calls it.
        training: Curves over iterations, by key.
        validation: Curves over epochs or iterations, by key.
        by_epoch: Whether validation counts epochs.
    """

    name: str
    training: dict[str, Curve]
    validation: dict[str, Curve]
    by_epoch: bool

    @property
    def keys(self) -> list[str]:
        """All that can be drawn."""
        return [*self.training, *self.validation]


def read_run(path: str | os.PathLike) -> Run:
    """Read a work directory, or one file of scalars.

    A run that was resumed has a folder for each start; where they overlap, the later one counts.

    Args:
        path: A work directory, or a ``scalars.json`` in one.

    Raises:
        UserError: If there is nothing to read.
    """
    path = Path(path)
    files = sorted(path.glob("*/vis_data/scalars.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(
            f"{path}: no */vis_data/scalars.json in it; name a work directory of tools/train.py"
        )
    training: dict[str, Curve] = defaultdict(dict)
    validation: dict[str, Curve] = defaultdict(dict)
    by_epoch = False
    for file in files:
        for entry in _entries(file):
            of_training = "iter" in entry
            by_epoch |= of_training and "epoch" in entry
            curves = training if of_training else validation
            for key, value in entry.items():
                if key not in NO_CURVES and isinstance(value, (int, float)):
                    curves[key][entry["step"]] = value
    if not training and not validation:
        raise UserError(f"{path}: nothing is logged yet")
    name = path.name if path.is_dir() else path.parents[2].name
    return Run(name, dict(training), dict(validation), by_epoch)


def _entries(file: Path) -> list[dict]:
    entries = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a run that was killed leaves half a line
            continue
        if isinstance(entry, dict) and "step" in entry:
            entries.append(entry)
    return entries


def plot_runs(runs: Sequence[Run], keys: Sequence[str] | None = None) -> Figure:
    """Draw one panel for each key, with a curve for each run.

    Args:
        runs: What to draw.
        keys: Names of losses, metrics or the learning rate; the usual ones if None.

    Raises:
        UserError: If no run has a key.
    """
    known = dict.fromkeys(key for run in runs for key in run.keys)
    if keys is None:
        keys = [key for key in DEFAULT_KEYS if key in known] or list(known)[:4]
    for key in keys:
        if key not in known:
            raise UserError(f"--keys {key}: not logged; there are {some(known, 40)}")
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.4 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for key, panel in zip(keys, panels, strict=False):
        _draw(panel, key, runs)
    for panel in panels[len(keys) :]:
        panel.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(runs)))
    return figure


def _draw(panel: Axes, key: str, runs: Sequence[Run]) -> None:
    unit = "iteration"
    for index, run in enumerate(runs):
        curve = run.training.get(key, run.validation.get(key, {}))
        if key not in run.training and key in run.validation and run.by_epoch:
            unit = "epoch"
        steps = sorted(curve)
        panel.plot(
            steps,
            [curve[step] for step in steps],
            color=COLOURS[index % len(COLOURS)],
            linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
            marker="o" if len(steps) <= 30 else None,
            markersize=4,
            label=run.name,
        )
    panel.set_title(key)
    panel.set_xlabel(unit)
    panel.grid(alpha=0.3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/plot_logs.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine("plot_logs.py", "Draw losses, learning rate and metrics of trainings.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work directory, or scalars.json")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="what to draw, e.g. loss mIoU")
    parser.add_argument("--out", default="curves.png", help="the picture; default curves.png")
    options = parser.parse_args(argv)

    def run() -> None:
        figure = plot_runs([read_run(path) for path in options.runs], options.keys)
        save_figure(figure, Path(options.out))
        print(f"wrote {options.out}")

    return run_tool(run)
