"""mmengine's train loops, able to go on in the middle of an epoch."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from pvt_mm.config.loading import log, walk
from pvt_mm.errors import UserError
from pvt_mm.registry import LOOPS
from pvt_mm.training.resuming.atomic import disk_faults
from pvt_mm.training.resuming.interruption import interruptible
from pvt_mm.training.resuming.loading import ResumableLoader
from pvt_mm.training.resuming.randomness import seed_everything

__all__ = ["ResumableEpochLoop", "ResumableIterLoop"]

VALIDATION = 1  # tells a validation's random numbers from those of the iteration before it


class _Resumable:
    """What both loops share.

    A loop goes on with the batch after the last one that was trained on; those before it are
    not loaded. A validation that was due and did not end is done first.

    Attributes:
        validated: The iterations that were complete at the last complete validation.
    """

    validated = -1

    def position(self) -> dict[str, Any]:
        """Say what a checkpoint has to hold besides mmengine's counters."""
        return {
            "seed": getattr(self._sampler, "seed", None),
            "batches": len(self.dataloader),
            "validated": self.validated,
        }

    def resume_at(self, position: Mapping[str, Any] | None) -> None:
        """Take up what :meth:`position` said.

        Args:
            position: None if the checkpoint was saved without it: then all validations count as
                done. Ignored by a run that starts from the start.
        """
        if self.runner.deterministic:
            # mmengine forbids operations that have no deterministic version, and some models
            # have nothing else on GPUs: torch names those in a warning.
            torch.use_deterministic_algorithms(True, warn_only=True)
        if self._iter == 0:
            return
        position = position or {}
        self.validated = position.get("validated", self._iter)
        if position.get("seed") is not None:
            # Without a seed in the config each start of the run has drawn another one.
            self._sampler.seed = position["seed"]
        self._find_place(position.get("batches", len(self.dataloader)))
        self._decide_current_val_interval()

    @property
    def _sampler(self) -> Any:
        return self.dataloader.batch_sampler.sampler

    def _validate_if_due(self, done: int, total: int) -> None:
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == total)
        if due and self.runner.val_loop is not None and self.validated != self._iter:
            seed_everything(self.runner.seed, self._iter, VALIDATION)
            self.runner.val_loop.run()
            self.validated = self._iter

    def run(self) -> nn.Module:
        """Train, and validate when it is due.

        Raises:
            Interrupted: After a signal, if the config declares the hook for it.
            UserError: If a file cannot be written for want of space.
        """
        with interruptible(self.runner), disk_faults(self.runner.work_dir):
            self._train()
        return self.runner.model

    def run_iter(self, *batch: Any) -> None:
        """Train on a batch, with random numbers that depend on the seed and iteration alone."""
        seed_everything(self.runner.seed, self._iter)
        super().run_iter(*batch)


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """Trains by epochs; resumes in the middle of one.

    Args:
        runner: The runner.
        dataloader: The data loader or its config.
        kwargs: Arguments of mmengine's ``EpochBasedTrainLoop``.
    """

    first = 0  # batches of the current epoch that were trained on before the run was resumed

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, _resumable(runner, dataloader), **kwargs)

    def _find_place(self, batches: int) -> None:
        done = self._iter - self._epoch * batches
        if batches == len(self.dataloader) and 0 <= done <= batches:
            self.first = done
        elif done:
            log(
                f"the checkpoint is of epochs of {batches} batches, and now they have "
                f"{len(self.dataloader)}: epoch {self._epoch + 1} begins anew"
            )

    def _train(self) -> None:
        self.runner.call_hook("before_train")
        if self._iter and not self.first:
            self._validate_if_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due(self._epoch, self._max_epochs)
        self.runner.call_hook("after_train")

    def run_epoch(self) -> None:
        """Train on what is left of the epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.start_at(self.runner.seed, self._epoch, self.first)
        for number, batch in enumerate(self.dataloader, start=self.first):
            self.run_iter(number, batch)
        self.first = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """Trains by iterations; resumes at any one.

    Args:
        runner: The runner.
        dataloader: The data loader or its config.
        kwargs: Arguments of mmengine's ``IterBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, _resumable(runner, dataloader, endless=True), **kwargs)

    def _find_place(self, batches: int) -> None:
        """The iteration is the place."""

    def _train(self) -> None:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader.start_at(self.runner.seed, 0, self._iter)
        if self._iter:
            self._validate_if_due(self._iter, self._max_iters)
        with closing(iter(self.dataloader)) as batches:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(next(batches))
                self._decide_current_val_interval()
                self._validate_if_due(self._iter, self._max_iters)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")


def _resumable(
    runner: Runner, dataloader: DataLoader | dict, endless: bool = False
) -> ResumableLoader:
    if isinstance(dataloader, dict):
        # As mmengine's BaseLoop builds it.
        varied = runner._randomness_cfg.get("diff_rank_seed", False)
        try:
            dataloader = runner.build_dataloader(dataloader, runner.seed, varied)
        except ValueError as error:
            # What numpy says when mmengine packs an empty list of samples.
            if "need at least one array to concatenate" not in str(error):
                raise
            raise UserError(_no_samples(dataloader)) from error
    return ResumableLoader(dataloader, endless)


def _no_samples(dataloader: dict) -> str:
    files = {str(node["ann_file"]) for _, node in walk(dataloader) if node.get("ann_file")}
    return (
        f"no image of {', '.join(sorted(files)) or 'the data set'} is left: filter_cfg of the "
        f"data set drops images without annotations of its classes, and small ones"
    )
