"""What is checked in a moment, before anything long starts."""

import os
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from pvt_mm.config.arguments import check_arguments
from pvt_mm.config.loading import walk
from pvt_mm.data.data_checks import check_data
from pvt_mm.data.demo.make_data import make_absent_demo_data
from pvt_mm.errors import UserError
from pvt_mm.training.distributed import check_device
from pvt_mm.training.resuming.atomic import check_writable
from pvt_mm.training.validation import check_evaluator, check_figures

__all__ = ["check_checkpoint", "check_test", "check_train", "is_first_here"]


def check_train(cfg: Config) -> None:
    """Check what a training run needs, and fetch the weights that it starts from.

    Raises:
        UserError: If something is missing or does not fit.
        CheckpointError: If weights cannot be fetched.
    """
    check_device(cfg.launcher)
    _check_work_dir(cfg.work_dir)
    if cfg.get("load_from"):
        check_checkpoint(cfg.load_from, "--resume" if cfg.get("resume") else "load_from")
    check_figures(cfg)
    if cfg.get("train_dataloader") is None or cfg.get("train_cfg") is None:
        raise UserError("the config has no train_dataloader, or no train_cfg")
    splits = ("train", "val") if cfg.get("val_cfg") is not None else ("train",)
    check_arguments(cfg, splits)
    make_absent_demo_data(cfg, splits)
    check_data(cfg, splits, read_annotations=is_first_here())
    _load_pretrained(cfg)
    if is_first_here():
        check_writable(cfg.work_dir)


def check_test(cfg: Config) -> None:
    """Check what a test run needs.

    Raises:
        UserError: If something is missing or does not fit.
        CheckpointError: If the checkpoint cannot be fetched.
    """
    check_device(cfg.launcher)
    _check_work_dir(cfg.work_dir)
    if cfg.load_from is not None:
        check_checkpoint(cfg.load_from, "checkpoint")
    if cfg.get("test_dataloader") is None:
        raise UserError("the config has no test_dataloader")
    check_evaluator(cfg, "test")
    check_arguments(cfg, ("test",))
    make_absent_demo_data(cfg, ("test",))
    check_data(cfg, ("test",), read_annotations=is_first_here())


def is_first_here() -> bool:
    """Whether this is the process of its machine that does what one has to do for all."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _check_work_dir(work_dir: str) -> None:
    existing = Path(work_dir).absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"work dir {work_dir}: {existing} is a file; choose another --work-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"work dir {work_dir}: no permission to write; choose another --work-dir")


def check_checkpoint(path: str, what: str) -> None:
    """Check that a checkpoint can be read; fetch it if it is remote and not here yet.

    It is read once more than needed: that takes a second or two, and a mistake that comes to
    light after the data sets were loaded takes minutes.

    Args:
        path: A file, a URL or an alias such as ``pvt://pvt_small``.
        what: What the user knows it by.

    Raises:
        UserError: If there is no such file.
        CheckpointError: If it cannot be fetched or read, or is no checkpoint.
    """
    file = Path(path).expanduser()
    if "://" not in path and not file.is_file():
        kind = "is a folder, not a file" if file.is_dir() else "not found"
        raise UserError(f"{what} {path} {kind}{_checkpoints_near(file)}")
    if is_first_here():
        CheckpointLoader.load_checkpoint(path, map_location="cpu", logger="silent")


def _checkpoints_near(file: Path) -> str:
    folder = file if file.is_dir() else file.parent
    found = sorted(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    return f"; there is {found[-1]}" if found else ""


def _load_pretrained(cfg: Config) -> None:
    """Load once the weights that modules of the model start from, and so fetch them."""
    for path, node in walk(cfg.model, "model"):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, Mapping) and init_cfg.get("type") == "Pretrained":
            check_checkpoint(init_cfg["checkpoint"], f"{path}.init_cfg.checkpoint")
        if isinstance(node.get("pretrained"), str):
            check_checkpoint(node["pretrained"], f"{path}.pretrained")
