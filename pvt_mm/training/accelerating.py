"""The hook that makes a training or a test use the fast twins of the PVTs' modules."""

from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner

from pvt_mm.allocator import tune_allocator
from pvt_mm.kernels import accelerate
from pvt_mm.registry import HOOKS

__all__ = ["AccelerateHook"]


@HOOKS.register_module()
class AccelerateHook(Hook):
    """Call :func:`pvt_mm.accelerate` on the model before the run, unless it is sharded.

    Before that :func:`pvt_mm.tune_allocator`, which our tools have called already and other entry
    points have not.

    Args:
        recompute: Whether a training on a CPU shall need less memory and more time, see
            :func:`pvt_mm.accelerate`.
    """

    def __init__(self, recompute: bool = False) -> None:
        self.recompute = recompute

    def before_run(self, runner: Runner) -> None:
        """Swap the modules; parameters stay the optimizer's."""
        tune_allocator()
        if isinstance(runner, FlexibleRunner):
            # FSDP has wrapped the blocks already, to recompute what the fast ones free themselves.
            return
        accelerate(runner.model, recompute=self.recompute)
