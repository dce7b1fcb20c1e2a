"""mmengine's FlexibleRunner, as far as our train loops need more of it than mmengine's own."""

from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner

from pvt_mm.training.terminal import FileForDetails

__all__ = ["ShardedRunner"]


@RUNNERS.register_module()
class ShardedRunner(FileForDetails, FlexibleRunner):
    """``FlexibleRunner`` for the train loops that resume in the middle of an epoch."""

    @property
    def deterministic(self) -> bool:
        """Whether the run computes the same every time; mmengine's own never sets it."""
        return bool(self._randomness_cfg.get("deterministic"))
