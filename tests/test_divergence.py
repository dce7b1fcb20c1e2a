"""A loss or gradient that is no number never gets into the parameters, or into a checkpoint."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from pvt_mm.checkpoints import safe_load
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import Diverged, run_tool
from pvt_mm.training import train
from pvt_mm.training.amp import AmpOptimWrapper
from pvt_mm.training.divergence import MAX_SKIPS, DivergenceHook

ROOT = Path(__file__).parents[1]
DETECTOR = str(ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_demo.py")
MASK_DETECTOR = str(ROOT / "configs" / "mask_rcnn_pvt_v2_b0_fpn_demo.py")
SEGMENTOR = str(ROOT / "configs" / "fpn_pvt_v2_b0_demo.py")


class Tiny(BaseModel):
    """A line through the origin; a negative input has a gradient that is not finite."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.norm = torch.nn.BatchNorm1d(1, affine=False)

    def forward(self, inputs, data_samples, mode="tensor"):
        self.norm(inputs[:, None])
        root = torch.where(inputs < 0, 0 * self.weight, torch.ones(1)).sqrt().sum()
        return {"loss_line": (self.weight * inputs).mean(), "loss_root": 0 * root}


def build(folder, inputs, skip=False, wrapper="OptimWrapper", lr=0.125, iters=None, **options):
    def collate(items):
        samples = [
            BaseDataElement(metainfo={"img_path": f"{number}.jpg", "img_id": number})
            for number, _ in items
        ]
        return {"inputs": torch.tensor([value for _, value in items]), "data_samples": samples}

    runner = Runner(
        model=Tiny(),
        work_dir=str(folder),
        train_dataloader={
            "dataset": [(number, float(value)) for number, value in enumerate(inputs)],
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": collate,
        },
        train_cfg={"by_epoch": False, "max_iters": iters or len(inputs) // 2},
        optim_wrapper={"type": wrapper, "optimizer": {"type": "SGD", "lr": lr}, **options},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False}},
        experiment_name=str(folder).replace("/", "_"),
        log_level="WARNING",
    )
    runner.register_hook(DivergenceHook(skip))
    return runner


NAN, INF, ROOT_OF_ZERO = float("nan"), float("inf"), -1.0
SETTINGS = {
    "plain": {},
    "clipped": {"clip_grad": {"max_norm": 1.0}},
    "mixed precision": {"wrapper": AmpOptimWrapper},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("bad", [NAN, INF, -INF, ROOT_OF_ZERO])
def test_training_stops_before_the_step(tmp_path, capfd, setting, bad):
    runner = build(tmp_path, [1, 1, 1, 1, 1, bad, 1, 1], **SETTINGS[setting])
    expected = {1: 1.875, 2: 1.75}  # two steps of 0.125 * 1
    assert run_tool(runner.train) == 3
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: training diverged: ")
    what = "a gradient is" if bad == ROOT_OF_ZERO else "the loss is"
    assert f"{what} not finite in iteration 3 (epoch 1): loss " in error
    assert "loss_line" in error and "loss_root" in error
    assert "images 4.jpg (id 4), 5.jpg (id 5); learning rate 0.125" in error
    assert f"the last checkpoint is {tmp_path}/iter_2.pth" in error
    (log,) = tmp_path.rglob("*.log")
    assert error.removeprefix("error: ") in log.read_text()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["iter_1.pth", "iter_2.pth"]
    for iteration, weight in expected.items():
        saved = safe_load(tmp_path / f"iter_{iteration}.pth")["state_dict"]
        assert saved["weight"].item() == pytest.approx(weight, rel=1e-6)  # clipping adds an eps
    assert runner.model.weight.item() == pytest.approx(expected[2], rel=1e-6)


def test_sound_training_is_not_changed(tmp_path):
    runner = build(tmp_path, [1, 1, 3, 3])
    runner.train()
    assert runner.model.weight.item() == 2 - 0.125 - 0.375


@pytest.mark.parametrize("bad", [NAN, ROOT_OF_ZERO])
def test_skipping_leaves_out_the_step_alone(tmp_path, bad):
    runner = build(tmp_path, [1, 1, 1, bad, 3, 3], skip=True)
    runner.train()
    assert runner.model.weight.item() == 2 - 0.125 - 0.375
    saved = safe_load(tmp_path / "iter_3.pth")["state_dict"]
    assert all(torch.isfinite(value).all() for value in saved.values())
    (log,) = tmp_path.rglob("*.log")
    skipped = re.findall(r"step skipped: .* in iteration (\d)", log.read_text())
    assert skipped == ["2"]


def test_skipping_has_an_end(tmp_path):
    inputs = [1, 1, NAN, NAN, 1, 1, *[NAN] * 2 * (MAX_SKIPS + 5)]
    with pytest.raises(Diverged, match=f"{MAX_SKIPS} steps in a row .* iteration {MAX_SKIPS + 4} "):
        build(tmp_path, inputs, skip=True).train()


@pytest.mark.parametrize("skip", [False, True])
def test_accumulated_gradients_are_left_out_together(tmp_path, skip):
    runner = build(tmp_path, [1, 1, 1, 1, NAN, 1, 1, 1, 3, 3, 3, 3], skip, accumulative_counts=2)
    if skip:
        runner.train()
        assert runner.model.weight.item() == 2 - 0.125 - 0.375
    else:
        with pytest.raises(Diverged, match="in iteration 3 .*images 4.jpg"):
            runner.train()
        assert runner.model.weight.item() == 2 - 0.125


def test_infinite_parameters_are_not_saved(tmp_path):
    runner = build(tmp_path, [0, 0, 1e20, 1e20], lr=1e20)
    with pytest.raises(Diverged, match="not saved: weight; the last checkpoint is .*iter_1.pth"):
        runner.train()
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_1.pth"]


WORKER = """
import os, sys, torch
from pathlib import Path
from mmengine.model import MMDistributedDataParallel
sys.path.insert(0, {tests!r})
torch.distributed.init_process_group("gloo")
from test_divergence import NAN, ROOT_OF_ZERO, build
from pvt_mm.errors import Diverged
rank = int(os.environ["RANK"])
# The samplers take turns: the second process alone has the bad sample.
runner = build(Path({folder!r}), [1, 1, 1, 1, 1, 1, 1, {bad}, 3, 3, 3, 3], {skip}, iters=3)
runner.model = MMDistributedDataParallel(module=runner.model)
try:
    runner.train()
    end = "ended"
except Diverged as error:
    end = str(error)
weight = runner.model.module.weight.item()
Path({folder!r}, f"end_{{rank}}.txt").write_text(f"{{runner.iter}} {{weight}} {{end}}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["NAN", pytest.param("ROOT_OF_ZERO", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("skip", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_all_processes_do_the_same(tmp_path, bad, skip):
    script = tmp_path / "worker.py"
    tests = str(Path(__file__).parent)
    script.write_text(WORKER.format(tests=tests, folder=str(tmp_path), bad=bad, skip=skip))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, second = (tmp_path.joinpath(f"end_{rank}.txt").read_text() for rank in range(2))
    assert first == second
    if skip:
        assert first == f"3 {2 - 0.125 - 0.375} ended"
    else:
        assert first.startswith("1 1.875 training diverged: ")


@pytest.mark.slow
@pytest.mark.parametrize("config", [DETECTOR, SEGMENTOR])
def test_real_networks_stop_too(tmp_path, monkeypatch, capfd, config):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "data"))
    make_demo_data(tmp_path / "data", DemoSpec(train=8, val=2, size=64))
    options = {
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "optim_wrapper.optimizer.lr": 1e18,
        "optim_wrapper.clip_grad": None,
        "param_scheduler": [],
        "default_hooks.logger.interval": 1,
    }
    pairs = [f"{key}={value}" for key, value in options.items()]
    assert train.main([config, "--work-dir", "out", "--cfg-options", *pairs]) == 3
    error = capfd.readouterr().err.splitlines()[-1]
    assert re.search(r"error: training diverged: .* in iteration \d \(epoch 1\): loss ", error)
    assert re.search(r"images \S*/images/training/\S+.*learning rate 1e\+18", error)
    assert not list((tmp_path / "out").glob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("config", [DETECTOR, MASK_DETECTOR, SEGMENTOR])
def test_an_image_of_nan_costs_real_networks_one_step(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "data"))
    make_demo_data(tmp_path / "data", DemoSpec(train=8, val=2, size=64))
    load = LoadImageFromFile.transform

    def spoil(self, results):
        loaded = load(self, results)
        if results["img_path"].endswith("training_00003.png"):
            loaded["img"] = np.full_like(loaded["img"], np.nan, dtype=np.float32)
        return loaded

    monkeypatch.setattr(LoadImageFromFile, "transform", spoil)
    length = {"max_iters": 4} if config == SEGMENTOR else {"max_epochs": 1}
    options = {f"train_cfg.{key}": value for key, value in length.items()}
    options |= {
        "train_cfg.val_interval": 100,
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
    }
    pairs = [f"{key}={value}" for key, value in options.items()]
    run = [config, "--work-dir", "out", "--on-divergence", "skip", "--cfg-options", *pairs]
    assert train.main(run) == 0
    (log,) = (tmp_path / "out").glob("*/*.log")
    skipped = [line for line in log.read_text().splitlines() if "step skipped" in line]
    assert len(skipped) == 1 and "training_00003.png" in skipped[0]
    (saved,) = (tmp_path / "out").glob("[ei]*_*.pth")
    state = safe_load(saved)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
