"""mmengine's FSDP strategy where it stops short: today's torch, CPUs, clipping of gradients."""

from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.registry import STRATEGIES
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
)

__all__ = ["MendedFSDPStrategy"]


@STRATEGIES.register_module()
class MendedFSDPStrategy(FSDPStrategy):
    """``FSDPStrategy`` that resumes, clips by the whole gradient's norm, and runs on CPUs.

    Args:
        model_wrapper: See ``FSDPStrategy``.
        kwargs: More of its arguments.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs: Any) -> None:
        model_wrapper = dict(model_wrapper or {})
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            # FSDP refuses to send parameters from CPU to CPU; equal seeds make them equal.
            model_wrapper.update(device_id="cpu", sync_module_states=False)
        super().__init__(model_wrapper=model_wrapper, **kwargs)
        if on_cpu:
            # What FSDP "offloads" from CPU to CPU is a view of memory that it then frees.
            self.state_dict_config = FullStateDictConfig(rank0_only=True)
            self.optim_state_dict_config = FullOptimStateDictConfig(rank0_only=True)

    def build_optim_wrapper(
        self, optim_wrapper: OptimWrapper | dict, model: nn.Module | None = None
    ) -> BaseOptimWrapper:
        """Build the wrapper and let it clip by the norm over all shards, not over its own."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, "clip_func", None) is nn.utils.clip_grad_norm_:

            def clip(params: list[nn.Parameter], **options: Any) -> Tensor:
                return model.clip_grad_norm_(**options)

            wrapper.clip_func = clip
        return wrapper

    def model_state_dict(self) -> dict:
        """Return the parameters without FSDP's marks, which reading a file refuses."""
        return {name: tensor.detach() for name, tensor in super().model_state_dict().items()}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer's state; mmengine passes torch's arguments in the order of 2.0."""
        own = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(own)
