"""mmengine's FlexibleRunner, as far as our train loops need more of it than mmengine's own."""

from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, FlexibleRunner

__all__ = ["ShardedRunner"]


@RUNNERS.register_module()
class ShardedRunner(FlexibleRunner):
    """``FlexibleRunner`` for the train loops that resume in the middle of an epoch."""

    @property
    def deterministic(self) -> bool:
        """Whether the run computes the same every time; mmengine's own never sets it."""
        return bool(self._randomness_cfg.get("deterministic"))

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop, and tell its batches' size where mmengine looks for it."""
        loop = super().build_train_loop(loop)
        batches = loop.dataloader.batch_sampler
        if not hasattr(batches, "batch_size"):
            batches.batch_size = batches.batches.batch_size
        return loop
