"""A config whose model is an exported file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict

from pvt_mm.config.loading import walk
from pvt_mm.config.models import task_of
from pvt_mm.errors import UserError
from pvt_mm.runtimes.sessions import Session, open_session

__all__ = ["check_fits", "refuse_for_exported", "use_exported"]


def refuse_for_exported(**options: bool) -> None:
    """Refuse options, by their names in Python, that change how a network computes.

    Raises:
        UserError: If one is set.
    """
    if wrong := [f"--{name.replace('_', '-')}" for name, given in options.items() if given]:
        raise UserError(f"{', '.join(wrong)}: not for an exported file, which is what it is")


def use_exported(cfg: Config, file: str | os.PathLike, dtype: str | None = None) -> None:
    """Put an exported file in the place of a config's model.

    Args:
        cfg: The config that the file was exported with, changed in place.
        file: The file.
        dtype: ``'float32'`` or ``'bfloat16'``; by default what the file was exported for.

    Raises:
        UserError: If the file cannot be opened, or was made of another config's model.
    """
    check_fits(cfg, open_session(file, dtype))
    head = cfg.model.get("decode_head") or {}
    cfg.model = ConfigDict(
        type="pvt_mm.ExportedModel",
        file=str(file),
        dtype=dtype,
        align_corners=bool(head.get("align_corners", False)),
        data_preprocessor=cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor"),
    )
    cfg.load_from, cfg.resume = None, False


def check_fits(cfg: Config, session: Session) -> None:
    """Refuse what would give a wrong figure: another task, other classes or another input.

    Args:
        cfg: A config with its own model.
        session: A file that shall stand in that model's place.

    Raises:
        UserError: Naming what differs.
    """
    meta, file = session.metadata, session.path
    if session.task != (task := _task(cfg)):
        raise UserError(f"{file} is for {session.task}, the config for {task}")
    counts = {
        node["num_classes"]
        for _, node in walk(cfg.model)
        if isinstance(node.get("num_classes"), int)
    }
    classes = meta.get("classes") or ()
    if classes and counts and len(classes) not in counts:
        raise UserError(
            f"{file} has {len(classes)} classes, the config's heads {max(counts)}; export it again "
            "with this config"
        )
    preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    for name, key in (("mean", "mean"), ("std", "std"), ("size_divisor", "pad_size_divisor")):
        wanted = preprocessor.get(key)
        if name in meta and wanted is not None and not np.allclose(meta[name], wanted):
            raise UserError(
                f"{file} was exported with {name} {meta[name]}, but the config's "
                f"data_preprocessor.{key} is {wanted}; export it again with this config"
            )


def _task(cfg: Config) -> str:
    roi_head: Mapping[str, Any] = cfg.model.get("roi_head") or {}
    return "instances" if roi_head.get("mask_head") else task_of(cfg)
