"""From a config to its model, its task, and the sizes that its pipelines name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from pvt_mm.config.loading import is_classification, is_segmentation

__all__ = ["build_model", "scales_of", "task_of", "usual_shape"]


def build_model(cfg: Config, preprocess: bool = True) -> nn.Module:
    """Build a config's model, with random weights and without synchronisation.

    Args:
        cfg: The config, which stays as it is: some heads change theirs.
        preprocess: Whether with its data preprocessor, which may need other packages.
    """
    model_cfg = copy.deepcopy(cfg.model)
    if not preprocess and "data_preprocessor" in model_cfg:
        model_cfg.data_preprocessor = None
    usual = "mmengine" if is_classification(cfg) else "mmdet"
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", usual)):
        return revert_sync_batchnorm(MODELS.build(model_cfg))


def task_of(cfg: Config) -> str:
    """Say whether a config is for ``classification``, ``segmentation`` or ``detection``."""
    if is_classification(cfg):
        return "classification"
    return "segmentation" if is_segmentation(cfg) else "detection"


def usual_shape(cfg: Config, detection: tuple[int, int]) -> tuple[int, int]:
    """Return the usual height and width of a task's images; those of detection are given."""
    shapes = {"classification": (224, 224), "segmentation": (512, 512), "detection": detection}
    return shapes[task_of(cfg)]


def scales_of(step: Mapping[str, Any]) -> list[tuple[int, int]]:
    """List the sizes of a step of a pipeline, a pair of numbers each, in the order they stand."""
    found = step.get("scales") or step.get("scale")
    pairs = found if _is_sequence(found) and all(map(_is_sequence, found)) else [found]
    return [
        tuple(pair)
        for pair in pairs
        if _is_sequence(pair) and len(pair) == 2 and all(isinstance(side, Real) for side in pair)
    ]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))
