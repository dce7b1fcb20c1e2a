"""The folder that the pages' commands are run in: everything that they name is there, and small."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import cv2
import pytest
import torch
from doc_commands import ROOT
from mmengine.registry import MODELS, DefaultScope
from procedural import official_state_dict

from pvt_mm.config.loading import load_config
from pvt_mm.data.demo import DemoSpec, make_demo_data

RELEASES = ("pvt_small", "pvt_v2_b0", "pvt_v2_b2", "pvt_v2_b2_li")
FEW = [
    f"{split}_dataloader.{key}"
    for split in ("train", "val", "test")
    for key in ("batch_size=2", "num_workers=0", "persistent_workers=False")
]
# Everything is a detection, so that a network which has learnt nothing has some.
DETECTOR = """
_base_ = "configs/retinanet_pvt_v2_b0_fpn_demo.py"
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(32, 64, 160, 256), depths=(1, 1, 1, 1)),
    ),
    test_cfg=dict(score_thr=0.0),
)
"""
CLASSIFIER = """
_base_ = "configs/pvt_v2_b2_in1k.py"
model = dict(backbone=dict(arch="b0"), num_classes=2, data_preprocessor=dict(num_classes=2))
"""
# What CONFIG and the like stand for, and what they stand for on the page of the classifiers.
PLACEHOLDERS = {
    "CONFIG": "detector.py",
    "CHECKPOINT": "work_dirs/detector/epoch_1.pth",
    "WORK_DIR": "work_dirs/detector",
    "IN": "pvt://pvt_v2_b0",
    "OUT": "converted.safetensors",
}
CLASSIFIERS = {"CONFIG": "classifier.py", "CHECKPOINT": "classifier.pth"}


def call(tool: str, *arguments: str) -> int:
    """Run a script of ``tools/`` as a command, in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [tool, *arguments])
        patch.setattr("sys.path", [str(ROOT / "tools"), *sys.path])
        try:
            runpy.run_path(str(ROOT / tool), run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0


def short(config: str) -> list[str]:
    """Options that make a training or a test of a config end after a few images."""
    loop = load_config(config).train_cfg
    length = "max_iters=2" if "max_iters" in loop else "max_epochs=1"
    steps = [f"train_cfg.{length}", f"train_cfg.val_interval={length[-1]}"]
    return ["--cfg-options", *FEW, *steps, "default_hooks.logger.interval=1"]


def make_workspace(folder: Path) -> None:
    """Fill ``folder``, which has to be the current one."""
    make_demo_data(folder / "data/demo", DemoSpec(train=4, val=3, size=64))
    for name in ("configs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    _make_images(folder)
    cache = folder / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    for name in RELEASES:
        torch.save(official_state_dict(name), cache / f"{name}.pth")

    Path("detector.py").write_text(DETECTOR)
    fast = short("detector.py")
    assert call("tools/train.py", "detector.py", *fast) == 0
    test = ["detector.py", PLACEHOLDERS["CHECKPOINT"], "--work-dir", "work_dirs/detector"]
    assert call("tools/test.py", *test, "--out", "work_dirs/detector/predictions.pkl", *fast) == 0
    shutil.copytree("work_dirs/detector", "work_dirs/retinanet_pvt_v2_b0_fpn_demo")
    shutil.copy(PLACEHOLDERS["CHECKPOINT"], "epoch_12.pth")

    assert call("tools/prepare_data.py", "data/demo") == 0
    assert call("tools/new_config.py", "data/demo_prepared", "--model", "retinanet") == 0
    _save_untrained("my_config.py", Path("work_dirs/my_config/epoch_12.pth"))
    Path("classifier.py").write_text(CLASSIFIER)
    _save_untrained("classifier.py", Path("classifier.pth"))
    _save_untrained("examples/own_data_coco.py", Path("work_dirs/own_data_coco/epoch_12.pth"))


def _make_images(folder: Path) -> None:
    """Put the demo's images where the pages have theirs, and a film of them."""
    scenes = [cv2.imread(str(path)) for path in sorted(folder.glob("data/demo/images/*/*.png"))]
    large = cv2.resize(scenes[0], (400, 300))
    places = ["cat.jpg", "dog.jpg", "photo.jpg", "a.jpg", "images/b.png", "images/c.jpg"]
    places += ["photos/d.jpg", "photos/2024/e.jpg", "holiday/f.png", "holiday/sea/g.jpg"]
    places += [f"data/imagenet/val/{name}/{name}.png" for name in ("ant", "bee")]
    for name in places:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), large if name == "cat.jpg" else scenes[1])
    film = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for scene in scenes[:2]:
        film.write(scene)
    film.release()


def _save_untrained(config: str, path: Path) -> None:
    """Write a checkpoint of a config's model with random weights."""
    cfg = load_config(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)
