"""The hook that names bad samples while a training runs, and leaves out as many as it may."""

import json
import os
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pvt_mm.data.allowance import Allowance, name_sample
from pvt_mm.data.bad_samples import RECORD, guard_samples
from pvt_mm.registry import HOOKS

__all__ = ["BadSamplesHook"]


@HOOKS.register_module()
class BadSamplesHook(Hook):
    """Guard the data of a training and of its validation; log what was left out.

    The config's ``skip_bad_images`` says how many different samples each process may leave out,
    over all its workers; none by default. An evaluation without some of its images would be
    another one: it leaves nothing out. Workers that run already when the training begins, as those
    of mmengine's own loop by iterations, are not guarded.

    Raises:
        BadSampleError: In a loader or its worker, for a sample that may not be left out.
    """

    def before_train(self, runner: Runner) -> None:
        """Reach into the data sets, before any worker has a copy of them."""
        record = Path(runner.work_dir) / RECORD
        allowed = runner.cfg.get("skip_bad_images") or 0
        loader = runner.train_loop.dataloader
        self.allowance = Allowance(allowed, record, loader.multiprocessing_context)
        guard_samples(loader.dataset, self.allowance, training=True)
        if runner.val_loop is not None:
            loader = runner.val_loop.dataloader
            none = Allowance(0, record, loader.multiprocessing_context)
            guard_samples(loader.dataset, none, training=False)
        self.reported = 0
        # What an earlier run wrote is left alone.
        self.position = os.path.getsize(record) if record.exists() else 0

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Log what the workers of this process left out since, each sample once."""
        if self.allowance.used == self.reported:
            return
        self.reported = self.allowance.used
        with self.allowance.record.open() as file:
            file.seek(self.position)
            entries = [json.loads(line) for line in file]
            self.position = file.tell()
        for entry in entries:
            if entry["rank"] == get_rank():
                runner.logger.warning(f"{name_sample(entry)}; the next one takes its place")

    def after_train(self, runner: Runner) -> None:
        """Log how many samples were left out."""
        if used := self.allowance.used:
            runner.logger.warning(
                f"bad samples left out: {used} of at most {self.allowance.limit} "
                f"(--skip-bad-images); see {self.allowance.record}"
            )
