"""The tools as users call them: small real runs, each a process of its own, from another folder.

The scripts run where nothing else has shown that they do; else their main functions.
"""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_forked
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from PIL import Image

from pvt_mm.checkpoints import safe_load
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import UserError
from pvt_mm.training.amp import AmpOptimWrapper
from pvt_mm.training.resuming.atomic import AtomicBackend
from pvt_mm.training.test import run_test

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DETECTOR = ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_demo.py"
MASK_DETECTOR = ROOT / "configs" / "mask_rcnn_pvt_v2_b0_fpn_demo.py"
SEGMENTOR = ROOT / "configs" / "fpn_pvt_v2_b0_demo.py"
NUM_VAL = 3
SMALL = {
    "train_dataloader.batch_size": 2,
    "val_dataloader.batch_size": 2,
    "test_dataloader.batch_size": 2,
    "default_hooks.logger.interval": 1,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
}
# Everything is a prediction, so that a network which has learnt nothing has some.
ALL_BOXES = {"model.test_cfg.score_thr": 0.0, "default_hooks.visualization.score_thr": 0.0}
TWO_ITERATIONS = {"train_cfg.max_epochs": 1, "train_cfg.val_interval": 1}
SEG_ITERATIONS = {
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 2,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.checkpoint.max_keep_ckpts": 3,  # other tests need what a resumed run outdates
    "model.decode_head.norm_cfg.type": "SyncBN",
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["PASSIVE", "2000"]),
        ({"GOMP_SPINCOUNT": "7"}, ["PASSIVE", "7"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "None"]),
    ],
)
def test_threads_wait_awake_for_a_moment_unless_told_otherwise(given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import os, _checkout; print(*map(os.environ.get, {names}))"
    environ = {key: value for key, value in os.environ.items() if key not in names} | given
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "tools", env=environ, capture_output=True, text=True)
    assert done.stdout.split() == expected


def environment_of(folder, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "RANK", "PORT", "NNODES"):
        environment.pop(name, None)
    return {**environment, "DEMO_ROOT": str(folder / "data"), **variables}


def run(folder, tool, *argv, world_size=1):
    """Run a tool's main function and return what it printed."""
    code, printed = run_forked(f"training.{tool}", argv, folder, environment_of(folder), world_size)
    assert code == 0, printed[-3000:]
    return printed


def call(folder, *command, **variables):
    """Run a command and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment_of(folder, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def options(*groups):
    merged = {}
    for group in (SMALL, *groups):
        merged.update(group)
    return ["--cfg-options", *(f"{key}={value}" for key, value in merged.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything is run: a data set of 64-pixel scenes, and nothing else."""
    folder = tmp_path_factory.mktemp("tools")
    make_demo_data(folder / "data", DemoSpec(train=4, val=NUM_VAL, size=64))
    return folder


@pytest.fixture(scope="module")
def detector(folder):
    """A RetinaNet that was trained for one epoch of two iterations."""
    scaled = options(TWO_ITERATIONS, {"auto_scale_lr.base_batch_size": 16})
    flags = ["--work-dir", "det", "--auto-scale-lr", *scaled]
    printed = call(folder, sys.executable, ROOT / "tools/train.py", DETECTOR, *flags)
    assert "Epoch(train) [1][2/2]" in printed
    assert "Scaling the original LR by 0.125" in printed  # batch size 2 of 16
    return folder / "det" / "epoch_1.pth"


@pytest.fixture(scope="module")
def segmentor(folder):
    """A Semantic FPN with SyncBN that was trained for two iterations."""
    flags = ["--work-dir", "seg", *options(SEG_ITERATIONS)]
    printed = run(folder, "train", SEGMENTOR, *flags)
    assert "Iter(train) [2/2]" in printed
    return folder / "seg" / "iter_2.pth"


def test_training_writes_its_config_and_checkpoint(detector):
    assert (detector.parent / DETECTOR.name).is_file()
    saved = safe_load(detector)
    assert saved["meta"]["epoch"] == 1
    assert saved["meta"]["iter"] == 2


def test_resume_goes_on_where_training_stopped(folder, detector):
    longer = options(TWO_ITERATIONS, {"train_cfg.max_epochs": 2})
    flags = ["--work-dir", "resumed", "--resume", detector, *longer]
    printed = run(folder, "train", DETECTOR, *flags)
    assert re.search(r"resumed epoch: 1, iter: 2", printed)
    assert re.findall(r"Epoch\(train\) \[(\d)\]\[(\d)/2\]", printed) == [("2", "1"), ("2", "2")]
    assert (folder / "resumed" / "epoch_2.pth").is_file()


def test_resume_of_a_segmentor_with_syncbn(folder, segmentor):
    longer = options(SEG_ITERATIONS, {"train_cfg.max_iters": 3, "train_cfg.val_interval": 3})
    flags = ["--work-dir", segmentor.parent, "--resume", *longer]
    printed = run(folder, "train", SEGMENTOR, *flags)
    assert re.findall(r"Iter\(train\) \[(\d)/3\]", printed) == ["3"]


def test_detection_writes_predictions_and_pictures(folder, detector):
    flags = ["--work-dir", "tested", "--out", "det.pkl", "--show-dir", "det_pictures"]
    command = [sys.executable, ROOT / "tools/test.py", DETECTOR, detector]
    printed = call(folder, *command, *flags, *options(ALL_BOXES))
    assert "coco/bbox_mAP_50" in printed
    predictions = pickle.loads((folder / "det.pkl").read_bytes())
    assert len(predictions) == NUM_VAL
    assert all(len(one["pred_instances"]["scores"]) > 0 for one in predictions)
    pictures = folder / "det_pictures"
    assert f"pictures are in {pictures}" in printed
    drawn = sorted(pictures.iterdir())
    images = sorted((folder / "data/images/validation").iterdir())
    assert [path.name for path in drawn] == [path.name for path in images]
    for picture, image in zip(drawn, images, strict=True):
        assert_drawn_beside(picture, image)


def assert_drawn_beside(picture, image):
    """Annotations on the left, predictions on the right, both drawn into the image."""
    scale = 8  # of 64 pixels to 512, so that names can be read
    small = Image.open(image).convert("RGB")
    large = small.resize([scale * side for side in small.size], Image.Resampling.BICUBIC)
    original = np.asarray(large, np.int32)
    left, right = np.split(np.asarray(Image.open(picture).convert("RGB"), np.int32), 2, axis=1)
    assert left.shape == right.shape == original.shape
    for half in (left, right):
        assert np.abs(half - original).max() > 30
    assert np.abs(left - right).max() > 30


def test_segmentation_writes_label_maps_and_pictures(folder, segmentor):
    flags = ["--work-dir", "seg", "--out", "seg_out", "--show-dir", "seg_pictures"]
    printed = run(folder, "test", SEGMENTOR, segmentor, *flags, *options())
    assert "mIoU" in printed
    images = sorted((folder / "data/images/validation").iterdir())
    for image in images:
        labels = np.asarray(Image.open(folder / "seg_out" / f"{image.stem}.png"))
        assert labels.shape == (64, 64)
        assert labels.min() >= 1 and labels.max() <= 6  # 0 is unlabelled
        assert_drawn_beside(folder / "seg_pictures" / image.name, image)


def small(*groups):
    merged = dict(SMALL)
    for group in groups:
        merged.update(group)
    return merged


def test_tta_of_a_detector(folder, detector, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DEMO_ROOT", "data")
    out = folder / "tta.pkl"
    metrics = run_test(DETECTOR, detector, out=out, tta=True, cfg_options=small(ALL_BOXES))
    assert 0 <= metrics["coco/bbox_mAP_50"] <= 1
    merged = pickle.loads(out.read_bytes())
    assert len(merged) == NUM_VAL
    register_backend("local", LocalBackend, force=True, prefixes="")
    run_test(DETECTOR, detector, out=out, cfg_options=small(ALL_BOXES))
    # mmengine lets every process write the metrics.
    assert isinstance(get_file_backend("metrics.json"), AtomicBackend)
    plain = pickle.loads(out.read_bytes())
    for one, other in zip(merged, plain, strict=True):
        merged_scores = one["pred_instances"]["scores"]
        assert not torch.equal(merged_scores, other["pred_instances"]["scores"])


def test_tta_of_a_segmentor(folder, segmentor, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DEMO_ROOT", "data")
    metrics = run_test(SEGMENTOR, segmentor, tta=True, cfg_options=small())
    assert 0 <= metrics["mIoU"] <= 100


def test_another_configs_checkpoint_is_refused(folder, detector, segmentor, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DEMO_ROOT", "data")
    with pytest.raises(UserError, match="not fit .* missing: bbox_head.*unexpected: decode_head"):
        run_test(DETECTOR, segmentor, cfg_options=small())
    wider = {"model.bbox_head.feat_channels": 64}
    with pytest.raises(UserError, match=r"0.conv.weight \(128, 128, 3, 3\) for \(64, 128, 3, 3\)"):
        run_test(DETECTOR, detector, cfg_options=small(wider))


def test_two_processes_on_a_machine_without_gpu(folder):
    if torch.cuda.is_available():
        pytest.skip("two processes need two GPUs where there are GPUs")
    flags = ["--launcher", "pytorch", "--work-dir", "two"]
    flags += options(SEG_ITERATIONS, {"train_dataloader.batch_size": 1})
    printed = run(folder, "train", SEGMENTOR, *flags, world_size=2)
    assert "SyncBN needs CUDA" in printed
    assert printed.count("Iter(train) [2/2]") == 1
    script = os.path.relpath(ROOT / "tools/dist_test.sh", folder)
    command = [script, SEGMENTOR, folder / "two/iter_2.pth", 2]
    printed = call(folder, *command, "--work-dir", "two", *options())
    assert "mIoU" in printed


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh"])
def test_scripts_say_how_to_use_them(script):
    done = subprocess.run([ROOT / "tools" / script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_slurm_script_passes_everything_on(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    command = [ROOT / "tools/slurm_train.sh", "gpu", "my job", "a config.py", "work dir", "--amp"]
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "16"}
    printed = call(tmp_path, *command, **variables, SRUN_ARGS="--time=1:00 -x node3")
    arguments = printed.splitlines()
    for expected in (
        "--partition=gpu",
        "--job-name=my job",
        "--ntasks=16",
        "--ntasks-per-node=8",
        "--gres=gpu:8",
        "--time=1:00",
        "node3",
    ):
        assert expected in arguments
    start = arguments.index(f"{ROOT}/tools/train.py")
    assert arguments[start + 1 :] == [
        "a config.py",
        "--work-dir",
        "work dir",
        "--launcher",
        "slurm",
        "--amp",
    ]


def test_mixed_precision_of_a_detector_with_masks(folder):
    flags = ["--amp", "--work-dir", "amp", *options(TWO_ITERATIONS)]
    printed = run(folder, "train", MASK_DETECTOR, *flags)
    if not torch.cuda.is_available():
        assert "mixed precision on the CPU: bfloat16" in printed
    losses = re.findall(r"Epoch\(train\).* loss: (\S+)", printed)
    assert len(losses) == 2
    assert all(np.isfinite(float(loss)) for loss in losses)
    # The config that it leaves behind works on a GPU too.
    assert "type='pvt_mm.AmpOptimWrapper'" in (folder / "amp" / MASK_DETECTOR.name).read_text()


def test_cpu_mixed_precision_computes_in_bfloat16():
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    wrapper = AmpOptimWrapper(optimizer=optimizer, loss_scale="dynamic")
    expected = model.bias.detach() - 0.5 * 3  # the gradient of a sum over 3 rows is 3
    with wrapper.optim_context(model):
        outputs = model(torch.ones(3, 4))
    assert outputs.dtype == torch.bfloat16
    wrapper.update_params(outputs.float().sum())
    assert torch.allclose(model.bias, expected)
    assert "loss_scaler" not in wrapper.state_dict()


@pytest.mark.openmmlab
def test_mim_test_reads_our_configs_and_checkpoints(folder, detector):
    pytest.importorskip("mim", reason="openmim is not installed", exc_type=ImportError)
    mim = ["-c", "from mim.commands.test import cli; cli()"]
    flags = ["mmdet", DETECTOR, "--checkpoint", detector, "--work-dir", "mim"]
    command = [sys.executable, *mim, *flags, *options(ALL_BOXES)]
    printed = call(folder, *command, PYTHONPATH=str(ROOT))
    assert "coco/bbox_mAP_50" in printed
    assert "Testing finished successfully" in printed
