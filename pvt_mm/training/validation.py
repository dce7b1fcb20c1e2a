"""What a config says of validation and test: all parts of it or none, and figures that exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from pvt_mm.config.loading import log
from pvt_mm.errors import UserError
from pvt_mm.training.evidence import ITEMS
from pvt_mm.wording import some

__all__ = ["check_evaluator", "check_figures", "drop_incomplete"]

PARTS = ("dataloader", "cfg", "evaluator")
OF_BOXES = ("bbox", "segm")
OF_PROPOSALS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
OF_PIXELS = {
    "mIoU": ("mIoU", "mAcc"),
    "mDice": ("mDice", "mAcc"),
    "mFscore": ("mFscore", "mPrecision", "mRecall"),
}


def drop_incomplete(cfg: Config, needed: str) -> None:
    """Leave out a validation, or a test, one part of which the config sets to None.

    Args:
        cfg: The config, changed in place.
        needed: The split that the run cannot do without.
    """
    for split in ("val", "test"):
        names = [f"{split}_{part}" for part in PARTS]
        absent = [name for name in names if cfg.get(name) is None]
        if not absent or len(absent) == len(names):
            continue
        if split == needed:
            raise UserError(f"the config has no {absent[0]}")
        log(f"{absent[0]} is None: there will be no {'validation' if split == 'val' else 'test'}")
        for name in names:
            cfg[name] = None


def check_evaluator(cfg: Config, split: str) -> None:
    """Check that a validation's or a test's evaluator is a metric's dict, or a list of such.

    Args:
        cfg: The config; without an evaluator it is fine.
        split: ``"val"`` or ``"test"``.

    Raises:
        UserError: If it is anything else.
    """
    evaluator = cfg.get(f"{split}_evaluator")
    for one in evaluator if isinstance(evaluator, (list, tuple)) else (evaluator,):
        if one is not None and not isinstance(one, Mapping):
            raise UserError(
                f"{split}_evaluator is {evaluator!r}; expected a metric's dict, such as "
                "dict(type='CocoMetric', ...), or a list of them"
            )


def check_figures(cfg: Config) -> None:
    """Check that what checkpoints are chosen by, or training is stopped by, will be measured.

    Raises:
        UserError: If it will not, or the evaluator is none.
    """
    check_evaluator(cfg, "val")
    known = set(_figures(cfg.get("val_evaluator")))
    if cfg.get("val_cfg") is None or None in known:
        return
    best = ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("save_best")
    for name in [best] if isinstance(best, str) else best or ():
        if name != "auto":
            _check_figure("default_hooks.checkpoint.save_best", name, known)
    for index, hook in enumerate(cfg.get("custom_hooks") or ()):
        if not isinstance(hook, Mapping):
            continue  # a hook that is built already
        if str(hook.get("type")).rpartition(".")[2] == "EarlyStoppingHook" and "monitor" in hook:
            _check_figure(f"custom_hooks.{index}.monitor", hook["monitor"], known)


def _check_figure(where: str, name: str, known: set[str]) -> None:
    if name in known:
        return
    ends = sorted(key for key in known if key.endswith(f"/{name}"))
    near = ends or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"{where} is {name!r}, which the validation does not measure; {hint}it measures "
        f"{some(sorted(known), 12)}"
    )


def _figures(evaluator: Any) -> Iterator[str | None]:
    """Yield the names of what evaluators measure; None for one that we know nothing about."""
    if isinstance(evaluator, (list, tuple)):
        for one in evaluator:
            yield from _figures(one)
        return
    if not isinstance(evaluator, Mapping):
        yield None
        return
    kind = str(evaluator.get("type")).rpartition(".")[2]
    if kind == "CocoMetric":
        yield from _of_coco(evaluator)
    elif kind == "VOCMetric" and evaluator.get("metric", "mAP") == "mAP":
        prefix = evaluator.get("prefix") or "pascal_voc"
        ious = evaluator.get("iou_thrs", 0.5)
        names = [f"AP{int(iou * 100):02d}" for iou in (ious if isinstance(ious, list) else [ious])]
        yield from (f"{prefix}/{name}" for name in ("mAP", *names))
    elif kind == "IoUMetric":
        prefix = f"{evaluator['prefix']}/" if evaluator.get("prefix") else ""
        chosen = evaluator.get("iou_metrics", ["mIoU"])
        for metric in chosen if isinstance(chosen, (list, tuple)) else [chosen]:
            yield from (f"{prefix}{name}" for name in ("aAcc", *OF_PIXELS.get(metric, ())))
    elif kind != "DumpResults" and kind != "DumpDetResults":
        yield None


def _of_coco(evaluator: Mapping) -> Iterator[str | None]:
    prefix = evaluator.get("prefix") or "coco"
    chosen = evaluator.get("metric", "bbox")
    for metric in [chosen] if isinstance(chosen, str) else chosen:
        if metric in OF_BOXES:
            items = evaluator.get("metric_items") or ITEMS
            yield from (f"{prefix}/{metric}_{item}" for item in items)
        elif metric == "proposal":
            yield from (f"{prefix}/{item}" for item in OF_PROPOSALS)
        else:
            yield None
    if evaluator.get("classwise"):
        yield None  # and one for each class
