"""Stopping a training by a signal: at the end of an iteration, with a checkpoint."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from pvt_mm.errors import Interrupted
from pvt_mm.registry import HOOKS
from pvt_mm.training.resuming.checkpointing import SafeCheckpointHook

__all__ = ["InterruptionHook", "interruptible"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Launchers pass on a signal that the terminal has sent to the whole group already.
ECHO = 0.5  # seconds


@contextmanager
def interruptible(runner: Runner) -> Iterator[None]:
    """Let the block, a training, end by SIGTERM or SIGINT as :class:`InterruptionHook` says.

    Our train loops run in it; a Runner without that hook is left alone. Afterwards no worker of a
    data loader is left.

    Raises:
        Interrupted: After a signal.
    """
    hook = next((hook for hook in runner.hooks if isinstance(hook, InterruptionHook)), None)
    if hook is None:
        yield
        return
    try:
        with hook.listening():
            yield
    except Interrupted as stop:
        traceback.clear_frames(stop.__traceback__)  # they hold the validation's iterator
        raise
    finally:
        for loader in hook.loaders:
            loader._iterator = None  # which keeps persistent workers
        # They ignore the signal by which Python would end them.
        hook.kill_workers()


@HOOKS.register_module()
class InterruptionHook(Hook):
    """On SIGTERM or SIGINT saves at the end of the current iteration and stops.

    After each iteration it asks whether any process of the run was told to. A second signal ends
    the process at once.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.received: int = 0  # the signal
        self.since = 0.0  # its time, in seconds
        self.shared_batches = 0  # of the validation: those that every process has
        self.loaders: list[DataLoader] = []
        self.others = multiprocessing.active_children()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals until the block ends; those that the caller ignores stay ignored."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self.since = number, now
        elif now - self.since > ECHO:
            self.kill_workers()
            os._exit(Interrupted(number).code)

    def kill_workers(self) -> None:
        """Kill the processes that were started since the hook was made."""
        workers = [p for p in multiprocessing.active_children() if p not in self.others]
        if not workers:
            return
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:  # torch's handler takes a dead worker for an error
            before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for worker in workers:
            worker.kill()
            worker.join()
        if in_main_thread:
            signal.signal(signal.SIGCHLD, before)

    def before_train(self, runner: Runner) -> None:
        """Let the loaders' workers live until this process has ended its iteration."""
        loops = filter(None, (runner.train_loop, runner.val_loop))
        self.loaders = [loop.dataloader for loop in loops]
        for loader in self.loaders:
            loader.worker_init_fn = partial(_ignore_signals, loader.worker_init_fn)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop here if any process was told to."""
        if received := self._agree(runner):
            self._stop(runner, received, runner.epoch, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Find out at how many batches all processes can agree."""
        length = torch.tensor(len(runner.val_dataloader))
        all_reduce(length, "min")
        self.shared_batches = int(length)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Stop here if any process was told to; the validation is done anew later."""
        if batch_idx < self.shared_batches and (received := self._agree(runner)):
            self._stop(runner, received, runner.epoch, runner.iter)

    def _agree(self, runner: Runner) -> int:
        """Return the signal that any process has got, unless gradients are being accumulated."""
        received = torch.tensor(self.received)
        all_reduce(received, "max")
        may_stop = getattr(runner.optim_wrapper, "should_update", lambda: True)
        return int(received) if may_stop() else 0

    def _stop(self, runner: Runner, received: int, epoch: int, iteration: int) -> None:
        name = signal.Signals(received).name
        hooks = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        if hooks:
            path = hooks[0].save_now(runner, epoch, iteration)
            saved = f"saved {path}; --resume goes on from there"
        else:
            saved = "nothing saved, as the config has no checkpoint hook"
        barrier()  # the launcher ends all processes as soon as one has ended
        runner.logger.info(f"{name}: stopped after {iteration} iterations, {saved}")
        raise Interrupted(received)


def _ignore_signals(then: Callable[[int], None] | None, worker_id: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker_id)
