"""What of a schedule will not come about: an endless warm-up, changes before a resume."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner

from pvt_mm.registry import HOOKS

__all__ = ["ScheduleHook"]

# A warm-up is meant to be a small part of a training.
WARM_UP_SHARE = 0.5


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Says before the first iteration what of the schedule will not come about.

    The logger's interval is cut to an epoch, so that each epoch's loss is logged.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the config's schedule with that of a checkpoint which training resumes."""
        saved = checkpoint.get("param_schedulers")
        if not runner._resume or saved is None or runner.param_schedulers is None:
            return
        mine, theirs = dict(_flat(runner.param_schedulers)), dict(_flat(saved))
        changes = [
            f"{name} is {'in the config' if name in mine else 'in the checkpoint'} only"
            for name in mine.keys() ^ theirs.keys()
        ]
        for name in mine.keys() & theirs.keys():
            for field, new, old in _differences(mine[name], theirs[name]):
                changes.append(f"{name}.{field} is {new} in the config, {old} in the checkpoint")
        if changes:
            runner.logger.warning(
                f"the schedule goes on as it began, not as the config has it: "
                f"{'; '.join(sorted(changes))}. For the config's, start from the checkpoint's "
                "weights (load_from=FILE without --resume)"
            )

    def before_train(self, runner: Runner) -> None:
        """Look for warm-ups that do not end, and log at least once an epoch."""
        epoch = len(runner.train_dataloader)
        total = runner.max_iters
        for name, scheduler in _flat(runner.param_schedulers or []):
            start = getattr(scheduler, "start_factor", getattr(scheduler, "factor", None))
            end = getattr(scheduler, "end_factor", 1)
            if not isinstance(scheduler, _ParamScheduler) or start is None or start >= end:
                continue
            length = scheduler.end * (epoch if scheduler.by_epoch else 1) - scheduler.begin
            if length <= WARM_UP_SHARE * total:
                continue
            reached = end
            if hasattr(scheduler, "start_factor"):
                reached = start + (end - start) * min(1, total / length)
            elif length >= total:
                reached = start
            runner.logger.warning(
                f"{name} warms up for {length} of the {total} iterations of this training, which "
                f"reaches {reached:.2g} of the learning rate; set its end to at most "
                f"{max(1, total // 10)}, or train longer"
            )
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                hook.interval = min(hook.interval, epoch, total)


def _flat(schedulers: Any) -> Iterator[tuple[str, Any]]:
    """Yield schedulers by their places in the config; there may be some for each optimizer."""
    if isinstance(schedulers, Mapping):
        for key, group in schedulers.items():
            for name, scheduler in _flat(group):
                yield name.replace("param_scheduler", f"param_scheduler.{key}", 1), scheduler
        return
    for index, scheduler in enumerate(schedulers):
        yield f"param_scheduler.{index}", scheduler


def _differences(scheduler: Any, saved: Mapping) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings, not the progress, in which a scheduler differs from a saved one."""
    state = scheduler.state_dict()
    settings = {
        name
        for kind in type(scheduler).__mro__
        if issubclass(kind, _ParamScheduler)
        for name in inspect.signature(kind.__init__).parameters
    }
    for field in sorted((settings | {"total_iters"}) - {"last_step", "param_name", "verbose"}):
        if field in state and field in saved and state[field] != saved[field]:
            yield field, _readable(state[field]), _readable(saved[field])


def _readable(value: Any) -> Any:
    # Milestones are kept as a Counter.
    return sorted(value.elements()) if hasattr(value, "elements") else value
