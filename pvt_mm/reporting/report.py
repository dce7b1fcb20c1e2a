"""``tools/report.py``: one self-contained HTML page about a run."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from mmengine.config import Config

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import is_classification, is_segmentation, log
from pvt_mm.errors import UserError, run_tool
from pvt_mm.files import replacing
from pvt_mm.reporting.confusion import WITH_NUMBERS, most_confused, plot_confusion, worst_pairs
from pvt_mm.reporting.evaluation import Evaluation, ImageScore
from pvt_mm.reporting.page import check_libraries, jpeg_uri, render, svg_uri
from pvt_mm.reporting.predictions import DETECTIONS, LABEL_MAPS, find_predictions
from pvt_mm.reporting.work_dir import WorkDir, read_work_dir
from pvt_mm.visualization.curves import DEFAULT_KEYS, Run, plot_runs, read_run

__all__ = ["main", "make_report"]

# Names of classes and scalars are no formulas; pictures of equal runs are equal files.
DRAWING = {"text.parse_math": False, "svg.hashsalt": "pvt_mm"}
LARGE_MATRIX = 900  # pixels of its width, below which its numbers are hard to read


def make_report(
    work_dir: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    predictions: str | os.PathLike | None = None,
    images: int = 8,
) -> Path:
    """Write a page with a run's config, curves, metrics and, if there are predictions, its errors.

    Args:
        work_dir: A work directory of ``tools/train.py``.
        out: The page; ``report.html`` in the work directory by default.
        predictions: What ``tools/test.py --out`` wrote for the run's test set. By default
            ``predictions.pkl`` or ``labels`` in the work directory, if it is there.
        images: How many of the best and of the worst images to show.

    Returns:
        The page.

    Raises:
        UserError: If there is no such run, or the predictions are not those of its test set.
    """
    check_libraries()
    if images < 0:
        raise UserError(f"--images {images}: expected 0 or more")
    record = read_work_dir(Path(work_dir))
    out = record.path / "report.html" if out is None else Path(out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name the page's file")
    run = read_run(record.path)
    with rc_context(DRAWING):
        evaluation, source, notes = _evaluate(record, predictions)
        content = {
            "title": f"Report of {record.path.resolve().name}",
            "notes": notes,
            "run_facts": _run_facts(record),
            "environment": record.environment,
            "config": record.config_text,
            "doubts": record.doubts,
            "evaluation": evaluation,
            "predictions": source,
            **_curves(run),
            **({} if evaluation is None else _errors(evaluation, images)),
        }
        page = render(**content)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return out


def _evaluate(
    record: WorkDir, predictions: str | os.PathLike | None
) -> tuple[Evaluation | None, Path | None, list[dict[str, str]]]:
    """Evaluate the predictions if there are any.

    Returns:
        The evaluation, the predictions' path, and notes of what is missing.
    """
    if predictions is None and record.config_path is None:
        return None, None, [_note("The work directory holds no config, so nothing is evaluated")]
    cfg = record.config()
    if is_classification(cfg):
        if predictions is not None:
            raise UserError("--predictions: the page shows those of detectors and segmentors only")
        return None, None, [_note("A classifier's predictions are not shown")]
    segmentation = is_segmentation(cfg)
    path = find_predictions(record.path, segmentation) if predictions is None else Path(predictions)
    if path is None:
        out = record.path / (LABEL_MAPS if segmentation else DETECTIONS)
        command = _command(
            "test", record.named_config, record.checkpoint, "--work-dir", record.path, "--out", out
        )
        text = (
            "No predictions are found, so classes, confusions and images are missing. "
            "This makes them"
        )
        log(f"{text}: {command}")
        return None, None, [_note(text, command)]
    with redirect_stdout(StringIO()):  # pycocotools says what it does
        return _evaluator(segmentation)(cfg, path), path, []


def _command(tool: str, *arguments: str | os.PathLike) -> str:
    return shlex.join(["python", f"tools/{tool}.py", *map(str, arguments)])


def _note(text: str, command: str = "") -> dict[str, str]:
    return {"text": text, "command": command}


def _evaluator(segmentation: bool) -> Callable[[Config, Path], Evaluation]:
    """Import what needs mmseg or mmdet only where it is used."""
    if segmentation:
        from pvt_mm.reporting.segmentation import evaluate_label_maps

        return evaluate_label_maps
    from pvt_mm.reporting.detection import evaluate_detections

    return evaluate_detections


def _run_facts(record: WorkDir) -> dict[str, str]:
    facts = {"Work directory": str(record.path.resolve()), **record.times}
    if record.named_config is not None:
        facts["Train it again"] = _command("train", record.named_config, "--work-dir", "NEW_FOLDER")
    if seed := record.environment.get("seed"):
        facts["Seed"] = seed
    return facts


def _curves(run: Run) -> dict[str, Any]:
    keys = dict.fromkeys(run.keys)
    usual = [key for key in DEFAULT_KEYS if key in keys] or list(keys)[:4]
    pictures = {key: svg_uri(plot_runs([run], [key])) for key in keys}
    metrics = []
    for name, curve in run.validation.items():
        step = max(curve, key=lambda step: (curve[step], step))
        metrics.append(
            {"name": name, "last": curve[max(curve)], "highest": curve[step], "step": step}
        )
    return {
        "curves": {key: pictures[key] for key in usual},
        "more_curves": {key: pictures[key] for key in keys if key not in usual},
        "metrics": metrics,
        "unit": "epoch" if run.by_epoch else "iteration",
    }


def _errors(evaluation: Evaluation, images: int) -> dict[str, Any]:
    shown = most_confused(evaluation.confusion)
    all_classes, classes = len(evaluation.confusion.labels), len(shown.labels)
    cut = "" if all_classes == classes else " Only the most confused classes have a row."
    of_nothing = f" That of {shown.labels[-1]} is of false boxes." if shown.background else ""
    best, worst = evaluation.extremes(images)
    return {
        "pairs": worst_pairs(evaluation.confusion),
        "matrix": svg_uri(plot_confusion(shown)),
        "matrix_note": f"Each row adds up to 100%.{of_nothing}{cut}",
        "matrix_min_width": LARGE_MATRIX if classes > WITH_NUMBERS // 2 else None,
        "table_note": evaluation.table.note,
        "best": [_drawn(evaluation, image) for image in best],
        "worst": [_drawn(evaluation, image) for image in worst],
    }


def _drawn(evaluation: Evaluation, image: ImageScore) -> dict[str, Any]:
    with warnings.catch_warnings():
        # mmengine warns of each box that reaches the border.
        warnings.filterwarnings("ignore", ".* is out of bounds")
        truth, found = map(jpeg_uri, evaluation.draw(image.index))
    return {
        "name": image.name,
        "score": image.score,
        "summary": image.summary,
        "truth": truth,
        "found": found,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/report.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine("report.py", "Write one HTML page about a run, with all pictures in it.")
    parser.add_argument("work_dir", help="work directory of tools/train.py")
    parser.add_argument("--out", help="the page; default WORK_DIR/report.html")
    parser.add_argument(
        "--predictions",
        metavar="FILE.pkl|FOLDER",
        help="what tools/test.py --out wrote; default predictions.pkl or labels in WORK_DIR",
    )
    parser.add_argument(
        "--images", type=int, default=8, help="how many of the best and the worst images; 8"
    )
    options = parser.options(argv)

    def run() -> None:
        page = make_report(**options)
        print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")

    return run_tool(run)
