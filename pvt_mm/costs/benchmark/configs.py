"""Whole models: a config's detector or segmentor on synthetic inputs of its size."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn

from pvt_mm.backbones.arguments import resolve_arch
from pvt_mm.config.loading import drop_pretrained, is_segmentation, load_config, walk
from pvt_mm.config.models import build_model, scales_of
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.contenders import Unavailable, mmdet_arguments
from pvt_mm.costs.benchmark.steps import autocast
from pvt_mm.costs.benchmark.workloads import Workload
from pvt_mm.errors import UserError
from pvt_mm.kernels import accelerate
from pvt_mm.training.amp import float32_boxes, is_amp
from pvt_mm.training.declared import declare, declared_hook

__all__ = ["import_models", "input_shape", "mmdet_backbone", "prepare_config", "synthetic_batch"]

OBJECTS = 10  # in every synthetic image
CLASSES = 4
STRIDE = 32


def prepare_config(contender: str, case: Case) -> Workload:
    """Build a config's model and its step: ``test_step``, or ``train_step`` with its optimizer.

    Args:
        contender: ``'pvt_mm'``, or ``'mmdet'`` for the same config with MMDetection's backbone.
        case: What to do; ``'backward'`` is the same as ``'train'``, because ``train_step`` has
            the optimizer in it.

    Raises:
        Unavailable: If the contender has no such backbone.
        UserError: If the config cannot be read or says no input size.
    """
    if contender not in ("pvt_mm", "mmdet"):
        raise Unavailable("whole models are compared with mmdet only")
    if case.dtype == "float16" and case.mode != "inference":
        raise Unavailable("whole models train in float32 or bfloat16 here")
    MMLogger.get_current_instance().setLevel("WARNING")  # else every weight is a line
    cfg = load_config(case.model)
    drop_pretrained(cfg.model, "speed does not depend on the weights")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    if contender == "mmdet":
        cfg.model.backbone = mmdet_backbone(cfg.model.backbone)
    elif case.with_cp:
        cfg.model.backbone.with_cp = True
    _leave_amp_to_the_case(cfg)
    model = build_model(cfg).to(case.device)
    model.init_weights()
    if case.dtype == "bfloat16":
        float32_boxes(model)  # as a training in bfloat16 does
    batch = synthetic_batch(cfg, case.shape or input_shape(cfg, case.mode), case.batch)
    if contender == "pvt_mm":
        _accelerate(model, cfg, case)
    if case.compile:
        model.backbone.compile(dynamic=case.dynamic or None)

    detail = "compiled backbone" if case.compile else ""
    if case.mode == "inference":
        model.eval()

        def infer() -> object:
            with torch.inference_mode(), autocast(case):
                return model.test_step(_copy(batch))

        return Workload(model, infer, detail)
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return Workload(model, _train_step(model, batch, optim_wrapper, case), detail)


def import_models(config: str) -> None:
    """Import what building a config's model would import."""
    MMLogger.get_current_instance().setLevel("WARNING")
    import_module("mmseg.models" if is_segmentation(load_config(config)) else "mmdet.models")


def _train_step(
    model: nn.Module, batch: dict[str, list], optim_wrapper: OptimWrapper, case: Case
) -> Callable[[], object]:
    def train() -> object:
        # What train_step does, with the case's autocast around the losses.
        data = model.data_preprocessor(_copy(batch), True)
        with autocast(case):
            losses = model(**data, mode="loss")
        parsed, logged = model.parse_losses(losses)
        optim_wrapper.update_params(parsed)
        return logged

    return train


def _accelerate(model: nn.Module, cfg: Config, case: Case) -> None:
    """Do what the Predictor does, or a training by our tools."""
    if case.mode == "inference":
        accelerate(model, prepack=True)
    else:
        declare(cfg)
        hook = declared_hook(cfg, "pvt_mm.AccelerateHook")
        accelerate(model, recompute=hook.get("recompute", False))


def _copy(batch: dict[str, list]) -> dict[str, list]:
    """The batch with samples of its own: models write into them."""
    return {
        "inputs": list(batch["inputs"]),
        "data_samples": [sample.clone() for sample in batch["data_samples"]],
    }


def _leave_amp_to_the_case(cfg: Config) -> None:
    wrapper = cfg.optim_wrapper
    if is_amp(wrapper):
        wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype"):
            wrapper.pop(key, None)


def mmdet_backbone(backbone: dict[str, Any]) -> dict[str, Any]:
    """MMDetection's backbone of the same architecture, as a config.

    Raises:
        Unavailable: If MMDetection has no such backbone.
    """
    kind = str(backbone.get("type", "")).rpartition(".")[2]
    if kind not in ("PVT", "PVTv2"):
        raise Unavailable(f"the config's backbone is {backbone.get('type')!r}, not a PVT")
    arch = resolve_arch(backbone.get("arch", "small"), version=1 if kind == "PVT" else 2)
    if arch.linear_sra or backbone.get("linear_sra"):
        raise Unavailable("mmdet has no linear SRA")
    return {
        "type": "mmdet.PyramidVisionTransformer" + ("V2" if kind == "PVTv2" else ""),
        **mmdet_arguments(arch),
        "drop_path_rate": backbone.get("drop_path_rate", 0.0),
        "out_indices": backbone.get("out_indices", (0, 1, 2, 3)),
        "init_cfg": None,
    }


def input_shape(cfg: Config, mode: str) -> tuple[int, int]:
    """Height and width that a landscape image has behind the config's pipeline.

    A resize that keeps the ratio is taken for one of a 4:3 photograph; sides are rounded up to
    the coarsest stride, as the models pad.

    Raises:
        UserError: If the pipeline names no size.
    """
    loader = cfg.test_dataloader if mode == "inference" else cfg.train_dataloader
    size = None
    for _, node in walk(loader.dataset.pipeline, "pipeline"):  # what comes last decides
        if node.get("type") == "RandomCrop":
            size = tuple(node["crop_size"])
        elif scales := scales_of(node):
            long, short = max(scales[-1]), min(scales[-1])
            factor = min(long / 4, short / 3)
            size = round(3 * factor), round(4 * factor)
    if size is None:
        raise UserError("the config's pipeline names no size; give one by --shape HEIGHT WIDTH")
    return -(-size[0] // STRIDE) * STRIDE, -(-size[1] // STRIDE) * STRIDE


def synthetic_batch(cfg: Config, shape: tuple[int, int], batch: int) -> dict[str, list]:
    """Noise with boxes, masks and labels that every head of the config can train on.

    Args:
        cfg: The config.
        shape: Height and width.
        batch: Number of images.
    """
    if is_segmentation(cfg):
        return _segmentation_batch(shape, batch)
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch_size=batch,
        image_shapes=(3, *shape),
        num_items=[OBJECTS] * batch,
        num_classes=CLASSES,
        with_mask=True,
    )


def _segmentation_batch(shape: tuple[int, int], batch: int) -> dict[str, list]:
    from mmseg.structures import SegDataSample

    random = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(batch):
        inputs.append(torch.from_numpy(random.integers(0, 255, (3, *shape), dtype=np.uint8)))
        labels = torch.from_numpy(random.integers(0, CLASSES, (1, *shape)))
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo({"img_shape": shape, "ori_shape": shape, "pad_shape": shape})
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}
