"""What int8 is fitted to, and judged by: images, and a config's labelled test set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from pvt_mm.config.loading import is_segmentation
from pvt_mm.data.dataset_sources import sources
from pvt_mm.errors import UserError
from pvt_mm.export.openvino import Calibration, Inputs
from pvt_mm.export.signature import Exportable
from pvt_mm.inference.inputs import find_inputs
from pvt_mm.inference.pipeline import Pipeline
from pvt_mm.runtimes.model import ExportedModel
from pvt_mm.runtimes.sessions import OpenVinoSession

__all__ = ["calibration_of"]

# By task: the figure that stands for all, and what it is when everything is right.
FIGURES = {
    "detection": ("coco/bbox_mAP", 1),
    "instances": ("coco/segm_mAP", 1),
    "segmentation": ("mIoU", 100),
    "classification": ("accuracy/top1", 100),
}


def calibration_of(
    cfg: Config, exportable: Exportable, images: Sequence[str], max_drop: float | None
) -> Calibration:
    """Read images as the config's test pipeline does.

    Args:
        cfg: The config.
        exportable: What is exported.
        images: Files, folders or patterns.
        max_drop: By how much the figure on the config's test set may fall; None for no limit.

    Raises:
        UserError: If there are no images, or one cannot be read.
    """
    scope = "mmseg" if is_segmentation(cfg) else "mmdet"
    pipeline = Pipeline(next(sources(cfg, "test")), scope)
    inputs = []
    with DefaultScope.overwrite_default_scope(scope):
        preprocessor = MODELS.build(_preprocessor(cfg))
        for source in find_inputs(images, sys.stdin):
            packed = pipeline(pipeline.read(source.path))
            batch = {key: [value] for key, value in packed.items()}
            inputs.append(_arrays(exportable, preprocessor(batch, False)))
    if max_drop is None:
        return Calibration(inputs)
    return Calibration(inputs, _Judge(cfg, exportable, scope), max_drop)


def _preprocessor(cfg: Config) -> dict[str, Any]:
    return cfg.model.get("data_preprocessor") or cfg.data_preprocessor


def _arrays(exportable: Exportable, batch: dict[str, Any]) -> Inputs:
    images = batch["inputs"].float()
    arguments = [images]
    if exportable.with_sizes:
        arguments.append(torch.tensor([batch["data_samples"][0].img_shape[:2]]))
    return {name: tensor.numpy() for name, tensor in zip(exportable.inputs, arguments, strict=True)}


class _Judge:
    """The figure of a compiled model on the config's test set, between 0 and 1."""

    def __init__(self, cfg: Config, exportable: Exportable, scope: str) -> None:
        self._cfg, self._scope, self._task = cfg, scope, exportable.task
        with DefaultScope.overwrite_default_scope(scope):
            self._loader = Runner.build_dataloader(cfg.test_dataloader)
        self._metadata = {"task": exportable.task}
        roi_head = cfg.model.get("roi_head")
        if roi_head and roi_head.get("mask_head"):
            self._metadata["mask_threshold"] = cfg.model.test_cfg.rcnn.mask_thr_binary

    def __call__(self, compiled: Any) -> float:
        session = OpenVinoSession.of(compiled, Path("the quantised model"), self._metadata)
        head = self._cfg.model.get("decode_head") or {}
        with DefaultScope.overwrite_default_scope(self._scope):
            model = ExportedModel(
                session,
                align_corners=bool(head.get("align_corners", False)),
                data_preprocessor=_preprocessor(self._cfg),
            )
            evaluator = Evaluator(self._cfg.test_evaluator)
            evaluator.dataset_meta = self._loader.dataset.metainfo
            for batch in self._loader:
                evaluator.process(model.test_step(batch), batch)
            found = evaluator.evaluate(len(self._loader.dataset))
        name, whole = FIGURES[self._task]
        if name not in found:
            raise UserError(f"--max-drop: the config's test_evaluator does not give {name}")
        return max(found[name], 0.0) / whole
