"""From a config and a checkpoint to a network that is ready to predict."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from pvt_mm.checkpoints import CheckpointError
from pvt_mm.checkpoints.schemes import read_once
from pvt_mm.config.loading import is_classification, is_segmentation, load_config, walk
from pvt_mm.config.models import build_model
from pvt_mm.data.dataset_sources import Source, sources
from pvt_mm.devices import choose_dtype
from pvt_mm.errors import UserError
from pvt_mm.kernels import accelerate
from pvt_mm.results import Colour, palette_of
from pvt_mm.results.palette import fits
from pvt_mm.runtimes import is_exported, refuse_for_exported, use_exported
from pvt_mm.training.amp import compute_in_bfloat16
from pvt_mm.training.matching import load_matching
from pvt_mm.training.speed import compile_backbone

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A network with all that its use needs.

    Attributes:
        network: In evaluation mode, on its device.
        scope: ``mmdet`` or ``mmseg``, where the config's names are looked up.
        source: The config's test set, for the pipeline.
        class_names: One for each class.
        palette: A colour for each class.
        category_ids: The data set's own id of each class; from 1 on if it has none.
        iou_threshold: Of the detector's non-maximum suppression; 0.5 if it has none.
    """

    network: nn.Module
    scope: str
    source: Source
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    category_ids: tuple[int, ...]
    iou_threshold: float

    @property
    def is_segmentor(self) -> bool:
        """Whether it labels pixels; otherwise it finds objects."""
        return self.scope == "mmseg"


def load_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    device: torch.device,
    cfg_options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    compile: bool = False,
) -> LoadedModel:
    """Build a config's network and fill it, strictly, from a checkpoint.

    Weights that the config starts training from are neither fetched nor read.

    Args:
        config: A detection or segmentation config, ours or mm's own.
        checkpoint: A file or a URL that holds the whole network.
        device: Where the network goes.
        cfg_options: Changes of the config, by dotted key.
        dtype: ``'float32'`` or ``'bfloat16'``.
        compile: Compile the backbone at the first image.

    Raises:
        UserError: If a file is missing, the checkpoint does not fit, or the config is of another
            task.
        CheckpointError: If the checkpoint cannot be had or read.
    """
    cfg = _read(config, cfg_options)
    source = next(sources(cfg, "test"), None)
    if source is None or not source.config.get("pipeline"):
        raise UserError("the config has no test_dataloader whose data set has a pipeline")
    path = str(checkpoint)
    if is_exported(path):
        refuse_for_exported(compile=compile)
        return _exported(cfg, source, path, device, dtype)
    content = read_once(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no state dict, but a {type(content).__name__}")
    network = build_model(cfg)
    load_matching(network, content, path)
    accelerate(network, prepack=True)
    network.to(device).eval()
    if dtype and choose_dtype(dtype, device) == "bfloat16":
        compute_in_bfloat16(network, device)
    if compile:
        compile_backbone(network, inference=True)
    class_names, colours = _classes(content, source, cfg)
    return LoadedModel(
        network=network,
        scope="mmseg" if is_segmentation(cfg) else "mmdet",
        source=source,
        class_names=class_names,
        palette=palette_of(colours, len(class_names)),
        category_ids=_category_ids(content, source, class_names),
        iou_threshold=_iou_threshold(cfg),
    )


def _exported(
    cfg: Config, source: Source, path: str, device: torch.device, dtype: str | None
) -> LoadedModel:
    """Take an exported file for the network."""
    if device.type != "cpu":
        raise UserError(f"{path}: exported files run on the CPU; --device cpu")
    iou_threshold, found = _iou_threshold(cfg), cfg.copy()
    use_exported(cfg, path, dtype)
    network = build_model(cfg).eval()
    class_names, colours = _classes({"meta": network.session.metadata}, source, found)
    return LoadedModel(
        network=network,
        scope="mmseg" if is_segmentation(cfg) else "mmdet",
        source=source,
        class_names=class_names,
        palette=palette_of(colours, len(class_names)),
        category_ids=_category_ids({}, source, class_names),
        iou_threshold=iou_threshold,
    )


def _read(config: str | os.PathLike | Config, cfg_options: Mapping[str, Any] | None) -> Config:
    if isinstance(config, Config):
        cfg = config.copy()
        cfg.merge_from_dict(dict(cfg_options or {}))
    else:
        cfg = load_config(config, cfg_options)
    if cfg.get("model") is None:
        raise UserError("the config has no model")
    if is_classification(cfg):
        raise UserError("the config is a classifier's; tools/classify.py is for those")
    package = "mmseg" if is_segmentation(cfg) else "mmdet"
    if find_spec(package) is None:
        raise UserError(f"the config needs {package}, which is not installed")
    return cfg


def _category_ids(content: dict, source: Source, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the classes' ids as the checkpoint, the config or the test set's file has them."""
    noted = (content.get("meta") or {}).get("dataset_meta") or {}
    for ids in (noted.get("category_ids"), source.dataset.metainfo.get("category_ids")):
        if isinstance(ids, (list, tuple)) and len(ids) == len(names):
            return tuple(int(number) for number in ids)
    known: dict[str, int] = {}
    if source.reads_coco and Path(source.dataset.ann_file).is_file():
        with suppress(OSError, ValueError, KeyError, TypeError):  # no file for this model, then
            categories = json.loads(Path(source.dataset.ann_file).read_bytes())["categories"]
            known = {entry["name"]: int(entry["id"]) for entry in categories}
    own = all(name in known for name in names)
    return tuple(known[name] if own else index for index, name in enumerate(names, 1))


def _classes(content: dict, source: Source, cfg: Config) -> tuple[tuple[str, ...], Any]:
    """Return the classes' names and, if somebody has noted any, their colours.

    The checkpoint knows them best; what it or the config says is believed if it fits the head.
    """
    meta = content.get("meta") or {}
    # Older versions write the keys in capitals, and not into a dict of their own.
    noted = [meta.get("dataset_meta") or meta, source.dataset.metainfo]
    noted = [{str(key).lower(): value for key, value in one.items()} for one in noted]
    counts = [
        node["num_classes"]
        for _, node in walk(cfg.model)
        if isinstance(node.get("num_classes"), int)
    ]
    for one in noted:
        names = tuple(str(name) for name in one.get("classes") or ())
        if names and (not counts or len(names) in counts):
            palettes = [other.get("palette") for other in (one, *noted)]
            return names, next((p for p in palettes if fits(p, len(names))), None)
    if not counts:
        raise UserError("neither checkpoint nor config names the classes")
    return tuple(f"class {index}" for index in range(max(counts))), None


def _iou_threshold(cfg: Config) -> float:
    test_cfg = cfg.model.get("test_cfg") or {}
    stage = test_cfg.get("rcnn") or test_cfg
    stage = stage[-1] if isinstance(stage, (list, tuple)) else stage
    return (stage.get("nms") or {}).get("iou_threshold", 0.5)
