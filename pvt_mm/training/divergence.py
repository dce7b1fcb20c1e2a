"""Training stops before a loss or gradient that is no number gets into the parameters."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from pvt_mm.config.loading import log
from pvt_mm.errors import Diverged, some
from pvt_mm.registry import HOOKS
from pvt_mm.training.models import innermost
from pvt_mm.training.resuming.latest import latest_checkpoint

__all__ = ["MAX_SKIPS", "DivergenceHook"]

MAX_SKIPS = 20  # in a row


class _Iteration(NamedTuple):
    number: int
    epoch: int
    images: list[str]
    losses: dict[str, Tensor]
    is_finite: Tensor


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Check the loss and the gradients before each step of the optimizer.

    Under automatic mixed precision with loss scaling the gradients are left to the scaler, which
    skips such steps by itself. In a distributed run all processes stop or skip together.

    Args:
        skip: Leave the step out and go on; the gradients that were accumulated for it are lost.

    Raises:
        Diverged: Before the step, or before a checkpoint of parameters that are not finite is
            saved.
    """

    # After whatever else changes a checkpoint before it is saved.
    priority = "LOWEST"

    def __init__(self, skip: bool = False) -> None:
        self.skip, self.skipped = skip, 0
        self.window: list[_Iteration] = []  # since the last step
        self.images: list[str] = []
        self.losses: dict[str, Tensor] = {}
        self.buffers: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Reach into the optimizer's wrapper: no hook is called between gradient and step."""
        wrapper, model = runner.optim_wrapper, innermost(runner.model)
        if not isinstance(wrapper, OptimWrapper):
            log(f"no check for divergence: it does not know {type(wrapper).__name__}")
            return
        parse_losses, step = model.parse_losses, wrapper.step
        backward, update_params = wrapper.backward, wrapper.update_params

        def keep_losses(losses: Mapping) -> tuple:
            total, self.losses = parse_losses(losses)
            return total, self.losses

        def keep_loss(loss: Tensor, **kwargs: Any) -> None:
            is_finite = torch.isfinite(loss.detach()).all()
            epoch = runner.epoch + 1
            found = _Iteration(runner.iter + 1, epoch, self.images, self.losses, is_finite)
            self.window.append(found)
            backward(loss, **kwargs)

        def check_and_step(**kwargs: Any) -> None:
            window, self.window = self.window, []
            flags = [found.is_finite for found in window]
            if not _scales(wrapper):
                flags.append(_finite_gradients(wrapper))
            if _all(flags):
                self.skipped = 0
                step(**kwargs)
            else:
                self._handle(runner, window)

        def update_and_check(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            update_params(loss, *args, **kwargs)
            # While gradients are accumulated there is no step.
            if self.window and not _all([self.window[-1].is_finite]):
                if not self.skip:
                    self._handle(runner, self.window)
                self._restore_buffers(runner)

        model.parse_losses = keep_losses
        wrapper.backward, wrapper.step = keep_loss, check_and_step
        wrapper.update_params = update_and_check

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what a message would name, and what a forward pass may spoil."""
        self.images = _images(data_batch)
        if self.skip:
            self.buffers = [buffer.clone() for buffer in runner.model.buffers()]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save what no training could continue from."""
        broken = [
            key for key, value in checkpoint.get("state_dict", {}).items() if not _finite(value)
        ]
        if broken:
            _stop(runner, f"not finite, and so not saved: {some(broken)}")

    def _handle(self, runner: Runner, window: list[_Iteration]) -> None:
        bad = [found for found in window if not found.is_finite][:1]
        what = "the loss is not finite" if bad else "a gradient is not finite"
        images = [image for found in bad or window for image in found.images]
        # The processes of a distributed run have different batches, and gradients of all.
        every = all_gather_object((bool(bad), _describe(what, bad or window), images))
        guilty = [one for one in every if one[0]][:1]
        names = [name for one in guilty or every for name in one[2]]
        rate = max(max(rates) for rates in runner.optim_wrapper.get_lr().values())
        text = (guilty or every)[0][1]
        text += f"; images {some(names) or 'unknown'}; learning rate {rate:.4g}"
        self.skipped += 1
        if not self.skip:
            _stop(runner, text)
        if self.skipped > MAX_SKIPS:
            _stop(runner, f"{MAX_SKIPS} steps in a row were skipped; the last: {text}")
        runner.logger.warning(f"step skipped: {text}")
        self._restore_buffers(runner)

    def _restore_buffers(self, runner: Runner) -> None:
        """Put back the running statistics, which the forward pass has changed."""
        for buffer, before in zip(runner.model.buffers(), self.buffers, strict=True):
            buffer.copy_(before)


def _scales(wrapper: OptimWrapper) -> bool:
    return isinstance(wrapper, AmpOptimWrapper) and wrapper.loss_scaler.is_enabled()


def _all(flags: list[Tensor]) -> bool:
    """Whether all hold, in all processes; the one place that waits for the device."""
    flag = torch.stack([flag.to(flags[0].device) for flag in flags]).all().int()
    all_reduce(flag, "min")
    return bool(flag)


def _stop(runner: Runner, reason: str) -> None:
    last = latest_checkpoint(runner.work_dir)
    message = (
        f"training diverged: {reason}; "
        + (f"the last checkpoint is {last}; " if last else "")
        + "lower the learning rate, warm up longer or clip gradients (optim_wrapper.clip_grad)"
    )
    runner.logger.error(message)
    raise Diverged(message)


def _describe(what: str, window: list[_Iteration]) -> str:
    first, last = window[0], window[-1]
    until = f" to {last.number}" if last is not first else ""
    losses = ", ".join(f"{name} {value.item():.4g}" for name, value in last.losses.items())
    return f"{what} in iteration {first.number}{until} (epoch {last.epoch}): {losses}"


def _images(batch: Any) -> list[str]:
    """Name the images of a batch, as far as its samples do."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    if not isinstance(samples, Iterable):
        return []
    names = ((getattr(one, "img_path", None), getattr(one, "img_id", None)) for one in samples)
    return [
        " ".join([str(path), *([f"(id {number})"] if number is not None else [])])
        for path, number in names
        if path is not None
    ]


def _finite_gradients(wrapper: OptimWrapper) -> Tensor:
    groups = wrapper.optimizer.param_groups
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    # Sharded ones: each process looks at its own part.
    local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in gradients]
    if not local:
        return torch.tensor(True)
    norms = torch._foreach_norm(local)
    return torch.stack([norm.isfinite() for norm in norms]).all()


def _finite(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    return bool(torch.isfinite(value).all())
