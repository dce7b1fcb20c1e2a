"""A training that was interrupted and resumed is the one that was not, bit by bit."""

import logging
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from tiny_training import SIZE, TinyDataset, tiny_config

from pvt_mm.checkpoints import safe_load
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import Interrupted, UserError
from pvt_mm.training.declared import declare
from pvt_mm.training.resuming.latest import latest_checkpoint
from pvt_mm.training.resuming.randomness import make_deterministic
from pvt_mm.training.train import run_train

BATCHES = 4  # of an epoch
VOLATILE = ("time", "data_time", "memory")


@HOOKS.register_module(force=True)
class StopAt(Hook):
    """Sends a signal to its own process: in an iteration, or in the validation after it."""

    priority = "LOW"  # before the checkpoint hook

    def __init__(self, iteration, in_validation):
        self.iteration, self.in_validation = iteration, in_validation

    def after_train_iter(self, runner, *args, **kwargs):
        if not self.in_validation and runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_val_iter(self, runner, *args, **kwargs):
        if self.in_validation and runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def run(cfg, stop=None, resume=False, deterministic=True):
    """Train; return the Runner after its end or its interruption."""
    if resume:
        cfg.load_from, cfg.resume = latest_checkpoint(cfg.work_dir), True
    declare(cfg)
    if deterministic:
        make_deterministic(cfg)
    runner = Runner.from_cfg(cfg)
    if stop is not None:
        runner.register_hook(StopAt(*stop))
        with pytest.raises(Interrupted):
            runner.train()
    else:
        runner.train()
    return runner


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    yield
    torch.use_deterministic_algorithms(False)


def history(content):
    """All that was logged, but for times."""
    scalars = content["message_hub"]["log_scalars"].items()
    return {
        name: buffer.data[0].tolist() for name, buffer in scalars if not name.endswith(VOLATILE)
    }


def final_state(runner, earlier=None):
    """The last checkpoint, what was logged, and the generators' states.

    A run that was stopped after the last iteration leaves none to the run after it, ``runner``.
    """
    content = safe_load(latest_checkpoint(runner.work_dir))
    best = sorted(Path(runner.work_dir).glob("best_*"))
    return {
        "names": sorted(path.name for path in Path(runner.work_dir).glob("*.pth")),
        "best": [safe_load(path)["state_dict"] for path in best],
        "counters": [content["meta"][key] for key in ("epoch", "iter", "seed")],
        **{key: content[key] for key in ("state_dict", "optimizer", "param_schedulers")},
        "position": content["pvt_mm_position"],
        "history": history(content),
        "states": runner.model.states or earlier.model.states,
    }


def assert_same(left, right, where="state"):
    """Compare nested values; tensors and arrays bit by bit."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), where
    elif isinstance(left, np.ndarray):
        assert np.array_equal(left, right), where
    else:
        assert left == right, where


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Final states of trainings that nothing disturbed, by kind; without workers."""
    results = {}

    def get(by_epoch):
        if by_epoch not in results:
            cfg = settings(tmp_path_factory.mktemp("whole"), by_epoch)
            runner = run(cfg)
            results[by_epoch] = final_state(runner), runner.model.seen
        return results[by_epoch]

    return get


def settings(folder, by_epoch, num_workers=0):
    length, interval = (3, 1) if by_epoch else (11, 4)
    cfg = tiny_config(
        folder, by_epoch=by_epoch, num_workers=num_workers, length=length, interval=interval
    )
    cfg.experiment_name = f"{folder}{random.random()}"  # mmengine's loggers are global
    return cfg


# The iteration after which the run is stopped, and whether in the validation that follows.
STOPS = {
    "mid-epoch": (6, False),
    "end of epoch": (BATCHES, False),
    "validation": (2 * BATCHES, True),
    "last iteration": (11, False),
}


CASES = [pytest.param(stop, 0, id=name) for name, stop in STOPS.items()]
CASES.append(pytest.param(STOPS["mid-epoch"], 2, id="mid-epoch, two workers"))
CASES.append(
    pytest.param(STOPS["validation"], 2, id="validation, two workers", marks=pytest.mark.exhaustive)
)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
@pytest.mark.parametrize(("stop", "num_workers"), CASES)
def test_interrupted_equals_uninterrupted(tmp_path, uninterrupted, by_epoch, num_workers, stop):
    expected, order = uninterrupted(by_epoch)
    first = run(settings(tmp_path, by_epoch, num_workers), stop)
    second = run(settings(tmp_path, by_epoch, num_workers), resume=True)
    assert first.model.seen + second.model.seen == order
    assert_same(final_state(second, first), expected)


@pytest.mark.slow
def test_interrupted_again_and_again(tmp_path, uninterrupted):
    expected, order = uninterrupted(True)
    seen = []
    for iteration in range(1, 3 * BATCHES + 1):
        stopped = run(settings(tmp_path, True), (iteration, False), resume=iteration > 1)
        seen += stopped.model.seen
    last = run(settings(tmp_path, True), resume=True)
    assert seen + last.model.seen == order
    assert_same(final_state(last, stopped), expected)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_without_a_seed_no_image_is_seen_twice_or_left_out(tmp_path, by_epoch):
    cfg = settings(tmp_path, by_epoch)
    first = run(cfg, (2, False), deterministic=False)
    second = run(settings(tmp_path, by_epoch), resume=True, deterministic=False)
    epoch = [index for batch in first.model.seen + second.model.seen for index in batch][:SIZE]
    assert sorted(epoch) == list(range(SIZE))
    assert second.model.seen[0] != first.model.seen[0]
    assert second.seed == first.seed


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_data_order_is_mmengines(tmp_path, uninterrupted, by_epoch):
    _, order = uninterrupted(by_epoch)
    cfg = settings(tmp_path, by_epoch)
    cfg.randomness = {"seed": 0}
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert type(runner.train_loop) is (EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)
    assert runner.model.seen == order


def test_skipped_batches_are_not_loaded(tmp_path, monkeypatch):
    run(settings(tmp_path, False), (6, False))
    loaded = []
    original = TinyDataset.prepare_data

    def count(self, index):
        if not self.test_mode:
            loaded.append(index)
        return original(self, index)

    monkeypatch.setattr(TinyDataset, "prepare_data", count)
    second = run(settings(tmp_path, False), resume=True)
    assert loaded == [index for batch in second.model.seen for index in batch]


def test_another_batch_size_starts_the_epoch_anew(tmp_path):
    run(settings(tmp_path, True), (6, False))
    cfg = settings(tmp_path, True)
    cfg.train_dataloader.batch_size = 4
    second = run(cfg, resume=True)
    per_epoch = -(-SIZE // 4)
    assert len(second.model.seen) == 2 * per_epoch  # the second epoch and the third


def test_plain_mmengine_resumes_from_our_checkpoint(tmp_path):
    run(settings(tmp_path, True), (6, False))
    cfg = settings(tmp_path, True)
    cfg.load_from, cfg.resume = latest_checkpoint(tmp_path), True
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.epoch == 3


def test_a_checkpoint_of_plain_mmengine_is_resumed_in_the_middle(tmp_path, uninterrupted):
    _, order = uninterrupted(False)
    cfg = settings(tmp_path, False)
    cfg.randomness = {"seed": 0}
    cfg.train_cfg.max_iters = 4
    Runner.from_cfg(cfg).train()
    assert run(settings(tmp_path, False), resume=True).model.seen == order[4:]


def test_fewer_images_than_a_batch(tmp_path):
    cfg = settings(tmp_path, False)
    cfg.train_dataloader.update(batch_size=SIZE + 1, drop_last=True)
    cfg.train_dataloader.sampler.type = "DefaultSampler"
    with pytest.raises(UserError, match="fewer images than batch_size"):
        run(cfg)


@pytest.mark.slow
def test_a_detector_interrupted_in_an_epoch(tmp_path, monkeypatch):
    make_demo_data(tmp_path / "data", DemoSpec(train=16, val=4, size=64))
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "data"))
    config = Path(__file__).parents[1] / "configs" / "retinanet_pvt_v2_b0_fpn_demo.py"
    options = {
        "train_dataloader.batch_size": 4,
        "train_cfg.max_epochs": 2,
        "default_hooks.checkpoint.save_best": "coco/bbox_mAP",
    }
    # Beside the config's own hooks: without AccelerateHook sums are rounded in another order.
    hooks = Config.fromfile(config).custom_hooks
    stop = {"custom_hooks": [*hooks, {"type": "StopAt", "iteration": 6, "in_validation": False}]}

    def train(name, **changes):
        folder = tmp_path / name
        settings = {**options, **changes, "experiment_name": f"{folder}{random.random()}"}
        run_train(config, work_dir=folder, resume="auto", deterministic=True, cfg_options=settings)

    train("whole")
    with pytest.raises(Interrupted):
        train("stopped", **stop)
    assert latest_checkpoint(tmp_path / "stopped").endswith("interrupted.pth")
    train("stopped")
    whole, stopped = (safe_load(tmp_path / name / "epoch_2.pth") for name in ("whole", "stopped"))
    for key in ("state_dict", "optimizer", "param_schedulers", "pvt_mm_position"):
        assert_same(stopped[key], whole[key], key)
    assert_same(history(stopped), history(whole), "history")
