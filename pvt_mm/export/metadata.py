"""What a program without this package has to know to use an exported model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from pvt_mm.config.loading import is_classification
from pvt_mm.version import __version__

__all__ = ["describe"]

RESIZES = ("Resize", "ResizeToMultiple", "pvt_mm.ResizeEdge", "pvt_mm.CenterCrop")


def describe(cfg: Config, model: nn.Module, checkpoint_meta: Mapping[str, Any]) -> dict[str, str]:
    """Collect an export's metadata.

    Args:
        cfg: The model's config.
        model: The whole model, built from it.
        checkpoint_meta: The ``meta`` of the checkpoint, which may name the classes.

    Returns:
        By name: ``classes``, ``palette``, ``mean``, ``std``, ``size_divisor``, ``resize`` and
        others, each a JSON text; see docs/export.md.
    """
    preprocessor = model.data_preprocessor
    entries: dict[str, Any] = {
        "pvt_mm": __version__,
        "config": cfg.filename.rpartition("/")[2] if cfg.filename else "",
        "channel_order": "RGB",
        "size_divisor": getattr(preprocessor, "pad_size_divisor", None) or 1,
        "resize": _resize(cfg),
        **_dataset_meta(cfg, checkpoint_meta),
    }
    if getattr(preprocessor, "mean", None) is not None:
        entries["mean"] = preprocessor.mean.flatten().tolist()
        entries["std"] = preprocessor.std.flatten().tolist()
    if hasattr(model, "roi_head") and model.roi_head.with_mask:
        entries["mask_threshold"] = model.roi_head.test_cfg.mask_thr_binary
    return {name: json.dumps(value) for name, value in entries.items()}


def _resize(cfg: Config) -> list[dict[str, Any]]:
    """Return the steps of the test pipeline that change an image's size."""
    pipeline = cfg.get("test_pipeline") or cfg.test_dataloader.dataset.get("pipeline", [])
    return [dict(step) for step in pipeline if step.get("type") in RESIZES]


def _dataset_meta(cfg: Config, checkpoint_meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return classes and palette as the checkpoint, the config or the data set names them."""
    dataset = cfg.test_dataloader.dataset
    known = DATASETS.get(dataset.type)
    found: dict[str, Any] = {}
    for source in (
        getattr(known, "METAINFO", {}),
        dataset.get("metainfo") or {},
        checkpoint_meta.get("dataset_meta") or {},
    ):
        found.update({key: source[key] for key in ("classes", "palette") if source.get(key)})
    if is_classification(cfg):
        found.pop("palette", None)
    return {key: list(value) for key, value in found.items()}
