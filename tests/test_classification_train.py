"""The ImageNet configs say what the recipe says, and train, resume and test by the tools."""

import logging
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS
from PIL import Image

from pvt_mm.checkpoints import safe_load
from pvt_mm.classification import RepeatedAugmentationSampler
from pvt_mm.classification.transforms import magnitude_weights
from pvt_mm.training import test, train

ROOT = Path(__file__).parents[1]
CONFIGS = {"pvt_v2_b2_in1k": ("PVTv2", "b2"), "pvt_small_in1k": ("PVT", "small")}
CLASSES = ("ant", "bee", "cat", "dog")

# A config that needs no torchvision and takes seconds.
SMALL = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(arch={arch!r}),
    num_classes=4,
    data_preprocessor=dict(erasing=0.0, mixup=0.0, cutmix=0.0),
)
small = dict(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False)
crop = [dict(type="pvt_mm.CenterCrop", size=64)]
train_dataloader = dict(**small, dataset=dict(pipeline=crop))
val_dataloader = dict(**small, dataset=dict(pipeline=crop))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs={epochs}, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes of two training and one validation images each."""
    folder = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 1)):
        for name in CLASSES:
            place = folder / "data" / "imagenet" / split / name
            place.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    for name, (family, _) in CONFIGS.items():
        base = str(ROOT / "configs" / f"{name}.py")
        arch = "b0" if family == "PVTv2" else "tiny"
        for epochs in (1, 2):
            text = SMALL.format(base=base, arch=arch, epochs=epochs)
            (folder / f"{family}_{epochs}.py").write_text(text)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    # mmengine's logger may hold the output stream of an earlier test, closed since then.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_recipe(name, monkeypatch):
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    family, arch = CONFIGS[name]
    assert cfg.model.backbone == dict(type=f"pvt_mm.{family}", arch=arch, drop_path_rate=0.1)
    assert (cfg.model.num_classes, cfg.model.label_smoothing) == (1000, 0.1)
    batch = cfg.model.data_preprocessor
    assert (batch.mixup, batch.cutmix, batch.erasing, batch.num_classes) == (0.8, 1.0, 0.25, 1000)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.train_dataloader.sampler.type == "pvt_mm.RepeatedAugmentationSampler"
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=1024)
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=1e-3, weight_decay=0.05)
    linear, cosine = cfg.param_scheduler
    assert linear.start_factor * 1e-3 == pytest.approx(1e-6)
    assert (linear.begin, linear.end, cosine.begin, cosine.end) == (0, 5, 5, 300)
    assert (cosine.T_max, cosine.eta_min) == (295, 1e-5)
    assert {loader.dataset.data_root for loader in (cfg.train_dataloader, cfg.val_dataloader)} == {
        "data/imagenet"
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_biases_and_embeddings_do_not_decay(name):
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    cfg.model.data_preprocessor = None  # the augmentation needs torchvision
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        free = parameter.ndim == 1 or "pos_embed" in key or "cls_token" in key
        assert decay[id(parameter)] == (0.0 if free else 0.05), key


@pytest.mark.slow
@pytest.mark.parametrize("family", [pytest.param("PVT", marks=pytest.mark.exhaustive), "PVTv2"])
def test_training_resuming_and_testing(here, family):
    train.main([f"{family}_1.py", "--work-dir", family])
    saved = safe_load(here / family / "epoch_1.pth")
    assert saved["meta"]["iter"] == 2
    assert tuple(saved["meta"]["dataset_meta"]["classes"]) == CLASSES
    assert saved["state_dict"]["head.weight"].shape[0] == 4
    assert not any(key.startswith("backbone.") for key in saved["state_dict"])

    resumed = f"{family}_2"
    runner = train.run_train(f"{resumed}.py", work_dir=resumed, resume=f"{family}/epoch_1.pth")
    assert (runner.epoch, runner.iter) == (2, 4)
    metrics = test.run_test(
        f"{family}_1.py", f"{resumed}/epoch_2.pth", work_dir="t", out=f"{family}.pkl"
    )
    assert metrics["accuracy/top5"] == 100  # of four classes
    assert metrics["accuracy/top1"] in (0, 25, 50, 75, 100)
    assert (here / f"{family}.pkl").stat().st_size > 0

    with torch.no_grad():  # top-1, once more by hand
        dataset = DATASETS.build(Config.fromfile(f"{family}_1.py").val_dataloader.dataset)
        model = runner.model.eval()
        mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
        right = 0
        for sample in (dataset[index] for index in range(4)):
            x = (sample["inputs"].float() - mean) / std
            right += int(model(x[None]).argmax() == sample["labels"])
    assert metrics["accuracy/top1"] == 25 * right


def test_finetuning_from_a_release_of_1000_classes(here):
    from procedural import official_state_dict

    torch.save(official_state_dict("pvt_v2_b0"), "release.pth")
    options = {"model.init_cfg": dict(type="Pretrained", checkpoint="release.pth")}
    options["optim_wrapper.optimizer.lr"] = 0.0
    runner = train.run_train("PVTv2_1.py", work_dir="tuned", cfg_options=options)
    state, release = runner.model.state_dict(), safe_load("release.pth")
    assert torch.equal(state["block4.1.mlp.fc2.weight"], release["block4.1.mlp.fc2.weight"])
    assert state["head.weight"].shape == (4, 256)


def refused(capsys, main, argv):
    assert main([str(part) for part in argv]) == 2
    (line,) = [ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("error: ")]
    return line


def empty_class(root):
    for path in (root / "train" / "bee").iterdir():
        path.unlink()


def one_more_class(root):
    (root / "val" / "eel").mkdir()
    Image.new("RGB", (8, 8)).save(root / "val" / "eel" / "0.png")


def flat(root):
    for split in ("train", "val"):
        for place in list((root / split).iterdir()):
            for path in place.iterdir():
                path.rename(root / split / f"{place.name}_{path.name}")
            place.rmdir()


DATA_FAULTS = {
    "absent": (
        lambda root: root.rename(root.with_name("moved")),
        ["IMAGENET_ROOT", "train/CLASS/"],
    ),
    "empty class": (empty_class, ["train/bee", "holds no image"]),
    "class count": (one_more_class, ["val has 5 class folders", "num_classes is 4"]),
    "no classes": (flat, ["has no folders", "one folder per class"]),
}


@pytest.mark.parametrize(("spoil", "named"), DATA_FAULTS.values(), ids=DATA_FAULTS)
def test_faulty_data(folder, here, tmp_path, monkeypatch, capsys, spoil, named):
    import shutil

    shutil.copytree(folder / "data" / "imagenet", tmp_path / "imagenet")
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "imagenet"))
    spoil(tmp_path / "imagenet")
    line = refused(capsys, train.main, ["PVTv2_1.py", "--work-dir", tmp_path / "out"])
    assert all(name in line for name in named), line


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--show-dir", "p"], "tools/classify.py"), (["--out", "folder"], "*.pkl")],
)
def test_options_that_are_not_for_classifiers(here, capsys, flags, named):
    torch.save({}, "any.pth")
    assert named in refused(capsys, test.main, ["PVTv2_1.py", "any.pth", *flags])


def test_without_torchvision_augmentation_is_refused_in_one_line(here):
    code = (
        "import sys; sys.modules['torchvision'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from pvt_mm.training.train import main; sys.exit(main(sys.argv[2:]))"
    )
    config = str(ROOT / "configs" / "pvt_v2_b2_in1k.py")
    options = ["--cfg-options", "model.num_classes=4", "model.backbone.arch=b0"]
    options += ["model.data_preprocessor.num_classes=4", "train_dataloader.num_workers=0"]
    command = [sys.executable, "-c", code, str(ROOT), config, "--work-dir", "no", *options]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert re.search(r"^error: .*torchvision.*pip install torchvision", done.stderr, re.M)


def test_repeated_augmentation_draws_each_image_three_times(monkeypatch):
    def draws(rank, world_size, epoch=0, size=1000, **kwargs):
        monkeypatch.setattr(
            "pvt_mm.classification.datasets.get_dist_info", lambda: (rank, world_size)
        )
        sampler = RepeatedAugmentationSampler(range(size), seed=1, **kwargs)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        return drawn

    alone = draws(0, 1)
    assert len(alone) == 768  # 3 * 256, the largest multiple of 256 in 1000
    assert Counter(alone).most_common(1)[0][1] == 3
    assert len(set(alone)) == 256
    shares = [draws(rank, 4) for rank in range(4)]
    assert {len(share) for share in shares} == {192}
    assert sorted(sum(shares, [])) == sorted(alone)
    assert draws(0, 1, epoch=1) != alone
    assert sorted(draws(0, 1, size=7)) == sorted(draws(0, 1, size=7, num_repeats=3))
    assert sorted(draws(0, 1, size=7, num_repeats=1)) == list(range(7))
    assert draws(0, 1, size=4, num_repeats=2, shuffle=False) == [0, 0, 1, 1]


def test_strengths_are_normal_around_nine_of_ten():
    weights = magnitude_weights(9.0, 0.5)
    values = np.array(list(weights)) / 3
    shares = np.array(list(weights.values()))
    assert shares.sum() == pytest.approx(1)
    mean = (values * shares).sum()
    assert mean == pytest.approx(9.0, abs=0.03)  # a little below: cut off at 10
    assert np.sqrt(((values - mean) ** 2 * shares).sum()) == pytest.approx(0.5, abs=0.05)
    assert magnitude_weights(9.0, 0.0) == {27: 1.0}
    assert max(magnitude_weights(10.0, 0.5)) == 30
