"""Mixed precision where mmengine's own stops short: on CPUs, and in bfloat16."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper as MMEngineAmpOptimWrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from pvt_mm.config.loading import log
from pvt_mm.registry import HOOKS, OPTIM_WRAPPERS
from pvt_mm.training.models import map_tensors

__all__ = [
    "AmpOptimWrapper",
    "Float32BoxesHook",
    "compute_in_bfloat16",
    "float32_boxes",
    "is_amp",
]

# Their products are what bfloat16 makes faster.
PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def is_amp(optim_wrapper: Mapping[str, Any]) -> bool:
    """Whether this config of a wrapper says mixed precision, by mmengine's class or by ours."""
    kind = optim_wrapper.get("type")
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    return name.rpartition(".")[2] == "AmpOptimWrapper"


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(MMEngineAmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``, which works on CPUs too: in bfloat16, without loss scaling.

    On CPUs ``loss_scale``, ``dtype`` and ``use_fsdp`` are ignored: they compute in bfloat16, which
    has the exponents of float32 and needs no scaling.

    Args:
        kwargs: Arguments of mmengine's ``AmpOptimWrapper``.
    """

    def __init__(self, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            super().__init__(**kwargs)
            return
        # mmengine 0.10's own __init__ refuses to run without an accelerator.
        own = ("loss_scale", "dtype", "use_fsdp")
        OptimWrapper.__init__(self, **{k: v for k, v in kwargs.items() if k not in own})
        self._scale_update_param = None
        # torch < 2.3 has one for CUDA only; switched off they are the same.
        scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)
        self.loss_scaler = scaler(enabled=False)
        self.cast_dtype = torch.bfloat16
        log("mixed precision on the CPU: bfloat16 without loss scaling")

    def state_dict(self) -> dict:
        """Leave out a scaler that is off: a GPU run that resumes from here starts a fresh one."""
        state = super().state_dict()
        if not self.loss_scaler.is_enabled():
            state.pop("loss_scaler")
        return state


@HOOKS.register_module()
class Float32BoxesHook(Hook):
    """Let a training in bfloat16 compute its boxes in float32; see :func:`float32_boxes`."""

    def before_train(self, runner: Runner) -> None:
        """Reach into heads and RoI extractors, if the optimizer's wrapper says bfloat16."""
        if getattr(runner.optim_wrapper, "cast_dtype", None) == torch.bfloat16:
            float32_boxes(runner.model)


def compute_in_bfloat16(model: nn.Module, device: str | torch.device) -> None:
    """Let a model predict in bfloat16, boxes excepted; it does not train afterwards.

    The weights of products are cast once; under autocast alone they would be at every call.

    Args:
        model: A detector, segmentor or classifier, changed in place.
        device: Where it computes.
    """
    float32_boxes(model)
    for module in model.modules():
        if type(module) in PRODUCTS:
            module.bfloat16()
    model.forward = torch.autocast(torch.device(device).type, torch.bfloat16)(model.forward)


def float32_boxes(model: nn.Module) -> None:
    """Let a detector compute boxes, and what it crops by them, in float32.

    mmcv's NMS and RoIAlign have no bfloat16 kernels, and a box corner near 1000 that is rounded
    to bfloat16 is off by up to 2 pixels.
    """
    try:
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        from mmdet.models.roi_heads.bbox_heads import BBoxHead
        from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
    except ImportError:  # only mmseg is installed: there are no boxes
        return
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda module, args: map_tensors(_widen, args))
        elif isinstance(module, (BaseDenseHead, BBoxHead)):
            module.register_forward_hook(lambda module, args, outputs: map_tensors(_widen, outputs))


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
