"""The example project trains as its README says, from its own folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pvt_mm.checkpoints.reading import safe_load

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "examples" / "third_party_project"
# One iteration of two small images, and no download.
SHORT = (
    "model.backbone.init_cfg=None",
    "train_cfg.max_epochs=1",
    "train_dataloader.dataset.count=2",
    "default_hooks.logger.type=LoggerHook",
    "default_hooks.logger.interval=1",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "losses", "keys"),
    [
        (
            "faster_rcnn_pvt_v2_b0",
            ("loss_rpn_cls", "loss_cls", "loss_bbox"),
            ("backbone.patch_embed1.proj.weight", "neck.norms.0.weight", "rpn_head.rpn_cls.bias"),
        ),
        pytest.param(
            "upernet_pvt_small",
            ("decode.loss_ce", "aux.loss_ce"),
            ("backbone.pos_embed4", "decode_head.psp_modules.0.1.conv.weight"),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_example_trains(config, losses, keys, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("work_dirs", "__pycache__"))
    command = [sys.executable, "train.py", f"configs/{config}.py", "--cfg-options", *SHORT]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = re.findall(r"Epoch\(train\) .*", done.stdout + done.stderr)
    for loss in losses:
        assert float(re.search(rf"{re.escape(loss)}: (\S+)", line)[1]) > 0
    weights = safe_load(folder / "work_dirs" / config / "epoch_1.pth")["state_dict"]
    assert all(torch.isfinite(weights[key]).all() for key in keys)


def test_project_does_not_import_the_package():
    for path in PROJECT.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) pvt_mm", path.read_text(), re.MULTILINE), path


def test_readme_names_files_that_exist():
    readme = (PROJECT / "README.md").read_text()
    named = re.findall(r"`((?:cells|configs)/\w+\.py)`", readme)
    commands = re.findall(r"^python train.py (\S+)", readme, re.MULTILINE)
    assert len(named) == 5 and len(commands) == 3
    assert all((PROJECT / name).is_file() for name in (*named, *commands))
