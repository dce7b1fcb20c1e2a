"""What of a schedule will not come about is said before training; each epoch's loss is logged."""

import logging
from pathlib import Path

import pytest
import tiny_training
from tiny_training import tiny_config

from pvt_mm.training.train import run_train

ITERATIONS = 4  # of an epoch


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(tiny_training.__file__).parent))
    monkeypatch.setattr(logging, "raiseExceptions", False)


def train(folder, resume=None, **changes):
    """Train the tiny model; returns the run's log."""
    cfg = tiny_config(folder, **changes)
    config = folder / f"{folder.name}.py"  # runs of one name and second share a logger
    cfg.dump(str(config))
    run_train(config, resume=resume)
    return sorted(folder.glob("*/*.log"))[-1].read_text()


def warm_up(end, **changes):
    return [{"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "end": end, **changes}]


@pytest.mark.parametrize(
    ("schedulers", "said"),
    [
        (warm_up(500), "param_scheduler.0 warms up for 500 of the 12 iterations"),
        (warm_up(2, by_epoch=True), "param_scheduler.0 warms up for 8 of the 12 iterations"),
        (
            [{"type": "ConstantLR", "factor": 0.1, "by_epoch": False, "end": 100}],
            "which reaches 0.1 of the learning rate; set its end to at most 1",
        ),
        (warm_up(4), None),
        ([{"type": "LinearLR", "start_factor": 1, "end_factor": 0.1, "end": 99}], None),
        ([{"type": "StepLR", "step_size": 1}], None),
    ],
    ids=["warm-up", "of epochs", "constant", "short", "decay", "steps"],
)
def test_a_warm_up_that_never_ends_is_said(tmp_path, schedulers, said):
    log = train(tmp_path, param_scheduler=schedulers)
    assert (said in log) if said else ("warms up for" not in log)


def test_the_rate_that_is_reached(tmp_path):
    """After 12 of 500 iterations from 0.01: 0.01 + 0.99 * 12 / 500."""
    assert "reaches 0.034 of the learning rate" in train(tmp_path, param_scheduler=warm_up(500))


@pytest.mark.parametrize("by_epoch", [True, False])
def test_each_epoch_logs_its_loss(tmp_path, by_epoch):
    length = 3 if by_epoch else 3 * ITERATIONS
    cfg = tiny_config(tmp_path)
    hooks = {**cfg.default_hooks.to_dict(), "logger": {"type": "LoggerHook", "interval": 50}}
    hooks["checkpoint"].update(by_epoch=by_epoch)
    log = train(tmp_path, by_epoch=by_epoch, length=length, interval=length, default_hooks=hooks)
    assert sum("loss: " in line and "train" in line.lower() for line in log.splitlines()) == 3


def test_a_resumed_run_says_that_another_schedule_is_left_out(tmp_path):
    steps = [{"type": "MultiStepLR", "milestones": [1], "by_epoch": True}]
    train(tmp_path, length=1, param_scheduler=steps)
    steps[0]["milestones"] = [1, 3]
    log = train(tmp_path, resume="auto", length=2, param_scheduler=steps)
    assert "the schedule goes on as it began, not as the config has it" in log
    assert "param_scheduler.0.milestones is [1, 3] in the config, [1] in the checkpoint" in log


def test_a_resumed_run_says_that_a_new_scheduler_is_left_out(tmp_path):
    train(tmp_path, length=1, param_scheduler=warm_up(2))
    more = [*warm_up(2), {"type": "StepLR", "step_size": 1}]
    log = train(tmp_path, resume="auto", length=2, param_scheduler=more)
    assert "param_scheduler.1 is in the config only" in log


def test_a_resumed_run_of_the_same_schedule_says_nothing(tmp_path):
    train(tmp_path, length=2)
    assert "the schedule goes on as it began" not in train(tmp_path, resume="auto", length=2)
