"""Options of the tools that make training and testing faster, and leave the results alone."""

import os
import shutil
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from pvt_mm.config.loading import log
from pvt_mm.errors import UserError
from pvt_mm.training.models import innermost, map_tensors

__all__ = ["compile_backbone", "prepare_speed", "use_channels_last"]


def prepare_speed(
    runner: Runner, channels_last: bool = False, compile: bool = False, inference: bool = False
) -> None:
    """Apply the options to a built Runner's model.

    Args:
        runner: The Runner, before it trains or tests.
        channels_last: See :func:`use_channels_last`.
        compile: See :func:`compile_backbone`.
        inference: The same.

    Raises:
        UserError: If there is no backbone to compile.
    """
    model = innermost(runner.model)
    if channels_last:
        use_channels_last(model)
    if compile:
        compile_backbone(model, inference)


def use_channels_last(model: nn.Module) -> None:
    """Let every convolution behind the backbone work on channels-last maps.

    The backbone does so anyway, inside. mmcv's RoIAlign reads memory as NCHW whatever the strides,
    so maps are brought back into that layout before it.
    """
    for name, child in model.named_children():
        if name != "backbone":
            child.to(memory_format=torch.channels_last)
    try:
        from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
    except ImportError:  # only mmseg is installed: no regions are cropped
        return
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(
                lambda module, args: map_tensors(Tensor.contiguous, args)
            )


def compile_backbone(model: nn.Module, inference: bool = False, **options: Any) -> None:
    """Compile the model's backbone for images of any size.

    Heads, with their NMS and matching of boxes, would break into many graphs and be compiled anew
    again and again.

    Args:
        model: A detector, segmentor or classifier.
        inference: Whether it only predicts. On CPUs its weights are then laid out once for
            oneDNN, which fuses what follows a product into it; a change of them after the first
            image is not seen any more.
        options: More arguments of ``torch.compile``.

    Raises:
        UserError: If the model has no backbone, or there is no compiler for C++.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise UserError(f"--compile: {type(model).__name__} has no backbone to compile")
    parameter = next(backbone.parameters(), None)
    if parameter is not None and parameter.device.type == "cpu" and "backend" not in options:
        _check_compiler()
        if inference:
            options["options"] = {"freezing": True, **options.get("options", {})}
    log("the first images compile the backbone and take long")
    backbone.compile(dynamic=True, **options)


def _check_compiler() -> None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if not any(name and shutil.which(name.split()[0]) for name in names):
        raise UserError(
            "--compile: on CPUs torch.compile needs a C++ compiler, and neither $CXX nor c++, g++ "
            "or clang++ is one; install g++, or leave --compile out"
        )
