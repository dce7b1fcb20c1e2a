"""Mixed precision where mmengine's own stops short: on CPUs, and in bfloat16."""

from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from pvt_mm.config.loading import log
from pvt_mm.training.models import map_tensors

__all__ = ["CPUAmpOptimWrapper", "float32_boxes", "prepare_amp"]


class CPUAmpOptimWrapper(AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper`` for CPUs: bfloat16, no loss scaling.

    Args:
        loss_scale: Ignored; bfloat16 has the exponents of float32 and needs no scaling.
        dtype: Ignored; CPUs compute in bfloat16.
        use_fsdp: Ignored.
        kwargs: Arguments of ``OptimWrapper``.
    """

    def __init__(
        self,
        loss_scale: Any = None,
        dtype: Any = None,
        use_fsdp: bool = False,
        **kwargs: Any,
    ) -> None:
        # AmpOptimWrapper's own __init__ refuses to run without an accelerator.
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        # torch < 2.3 has one for CUDA only; switched off they are the same.
        scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)
        self.loss_scaler = scaler(enabled=False)
        self.cast_dtype = torch.bfloat16

    def state_dict(self) -> dict:
        """Leave out the scaler: a GPU run that resumes from here starts with a fresh one."""
        state = super().state_dict()
        state.pop("loss_scaler")
        return state


def prepare_amp(runner: Runner) -> None:
    """Let a built Runner train in mixed precision on this device.

    Does nothing unless the config's optimizer wrapper is an ``AmpOptimWrapper``. The Runner's
    config, which it has written to the work directory, keeps the portable type.
    """
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, dict) or wrapper.get("type") != "AmpOptimWrapper":
        return
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        log("mixed precision on the CPU: bfloat16 without loss scaling")
        runner.optim_wrapper = {**wrapper, "type": CPUAmpOptimWrapper}
    if on_cpu or str(wrapper.get("dtype")).endswith("bfloat16"):
        float32_boxes(runner.model)


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
