"""One config, one training: our tool, MMDetection's, MMSegmentation's and mim compute the same."""

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook

from pvt_mm.checkpoints import safe_load
from pvt_mm.config.loading import find_forked_mmseg
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.training.declared import CUSTOM_HOOKS, declare
from pvt_mm.training.divergence import DivergenceHook

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
SHORT = (
    *(f"{split}_dataloader.batch_size=2" for split in ("train", "val")),
    *(f"{split}_dataloader.num_workers=0" for split in ("train", "val")),
    *(f"{split}_dataloader.persistent_workers=False" for split in ("train", "val")),
    "default_hooks.logger.interval=1",
)
# Config, options, package, checkpoint.
RUNS = {
    "detector": (
        "retinanet_pvt_v2_b0_fpn_demo.py",
        ("train_cfg.max_epochs=2", "train_cfg.val_interval=1"),
        "mmdet",
        "epoch_2.pth",
    ),
    "segmentor": (
        "fpn_pvt_v2_b0_demo.py",
        ("train_cfg.max_iters=4", "train_cfg.val_interval=2"),
        "mmseg",
        "iter_4.pth",
    ),
}


def tensors(node, path=""):
    """Yield every tensor in a checkpoint, with its place."""
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, dict):
        for key in sorted(node, key=str):
            yield from tensors(node[key], f"{path}/{key}")
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from tensors(value, f"{path}/{index}")


def checksum(found):
    digest = hashlib.sha256()
    for path, tensor in found.items():
        digest.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.openmmlab
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "changes", "package", "name"),
    [
        pytest.param(*run, id=task, marks=[pytest.mark.exhaustive] if task == "segmentor" else [])
        for task, run in RUNS.items()
    ],
)
def test_all_entry_points_give_the_same_checkpoint(tmp_path, config, changes, package, name):
    make_demo_data(tmp_path / "data" / "demo", DemoSpec(train=6, val=2, size=64))
    theirs = Path(find_spec(package).origin).parent / ".mim" / "tools" / "train.py"
    starts = {
        "tools/train.py": [ROOT / "tools" / "train.py"],
        f"{package}'s own": [theirs],
    }
    if find_spec("mim"):
        starts["mim train"] = ["-c", "from mim.commands.train import cli; cli()", package]
    found, positions = {}, []
    for start, words in starts.items():
        work_dir = tmp_path / start.replace("/", " ")
        flags = ["--work-dir", work_dir, "--cfg-options", *SHORT, *changes]
        done = subprocess.run(
            [sys.executable, *map(str, words), str(CONFIGS / config), *map(str, flags)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        content = safe_load(work_dir / name)
        found[start] = dict(tensors(content))
        positions.append(content["pvt_mm_position"])
    ours = found["tools/train.py"]
    assert any("/state_dict/backbone" in key for key in ours)
    assert any("/optimizer/" in key for key in ours)
    assert positions == [positions[0]] * len(starts)
    for start, other in found.items():
        print(start, len(other), checksum(other))
        assert other.keys() == ours.keys(), start
        different = [key for key in ours if not torch.equal(ours[key], other[key])]
        assert not different, (start, different)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_configs_declare_what_our_tools_would_add(path):
    find_forked_mmseg()  # OneDL's mmengine does not read `mmseg::` of OneDL's mmseg by itself
    cfg = Config.fromfile(str(path))
    kinds = [hook.type for hook in cfg.custom_hooks if hook.type.startswith("pvt_mm.")]
    assert kinds == list(CUSTOM_HOOKS)
    before = cfg.to_dict()
    declare(cfg)
    assert cfg.to_dict() == before


def test_a_config_of_another_project_gets_the_same(tmp_path):
    own = {"type": EMAHook}  # as mmengine's configs in pure Python have it
    cfg = Config(
        {
            "custom_hooks": [own, {"type": DivergenceHook, "skip": True}],
            "train_cfg": {"by_epoch": False, "max_iters": 2},
            "optim_wrapper": {"type": "AmpOptimWrapper", "loss_scale": "dynamic"},
        }
    )
    declare(cfg)
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert kinds[:2] == [EMAHook, DivergenceHook] and cfg.custom_hooks[1].skip
    assert {*kinds[2:], "pvt_mm.DivergenceHook"} == set(CUSTOM_HOOKS)
    assert len(kinds) == 1 + len(CUSTOM_HOOKS)
    assert cfg.train_cfg == {"type": "pvt_mm.ResumableIterLoop", "max_iters": 2}
    assert cfg.optim_wrapper == {"type": "pvt_mm.AmpOptimWrapper", "loss_scale": "dynamic"}
    assert cfg.default_hooks.checkpoint.type == "pvt_mm.SafeCheckpointHook"
