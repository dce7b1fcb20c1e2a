"""The classifier beside torchvision and with checkpoints of other code bases."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from PIL import Image
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))

from procedural import official_state_dict, procedural_image  # noqa: E402
from test_classifier_logits import (  # noqa: E402
    TO_TRANSFORMERS_V1,
    TO_TRANSFORMERS_V2,
    checkpoint_filter_fn,
    transformers_state,
)

from pvt_mm.backbones import ARCHS  # noqa: E402
from pvt_mm.checkpoints import map_classifier  # noqa: E402
from pvt_mm.classification import (  # noqa: E402
    CenterCrop,
    ClsDataPreprocessor,
    DeiTAugment,
    PVTClassifier,
)
from pvt_mm.classification.tool import load_classifier  # noqa: E402
from pvt_mm.classification.transforms import to_pixels  # noqa: E402
from pvt_mm.training import test as test_tool  # noqa: E402
from pvt_mm.training import train  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (97, 131), (256, 256), (1000, 301)])
def test_centre_crop_is_torchvisions(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    official = v2.Compose(
        [v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)]
    )
    assert torch.equal(to_pixels(CenterCrop(224).crop(image)), to_pixels(official(image)))


def layouts(name):
    """The same release under other code bases' names."""
    state = official_state_dict(name)
    if ARCHS[name].version == 1:
        return {"transformers": transformers_state(state, TO_TRANSFORMERS_V1)}
    peer = timm.create_model(name)
    return {
        "timm": checkpoint_filter_fn(state, peer),
        "transformers": transformers_state(state, TO_TRANSFORMERS_V2),
    }


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_classifiers_of_other_code_bases_load_whole(name, tmp_path):
    official = official_state_dict(name)
    for layout, state in layouts(name).items():
        mapped = map_classifier(state).state_dict
        assert set(mapped) == set(official), layout
        for key, value in official.items():
            assert torch.equal(mapped[key], value), (layout, key)
        # By the tool, which recognises the model, and by load_state_dict, which mmengine calls.
        torch.save(state, tmp_path / "peer.pth")
        model, names = load_classifier(str(tmp_path / "peer.pth"))
        assert model.arch.name == name
        assert names[0] == "tench, Tinca tinca"
        again = PVTClassifier(dict(type=type(model.backbone), arch=model_arch(name)))
        again.load_state_dict(state, strict=True)
        for key, value in official.items():
            assert torch.equal(model.state_dict()[key], value), (layout, key)
            assert torch.equal(again.state_dict()[key], value), (layout, key)


def model_arch(name):
    return name.removeprefix("pvt_v2_").removeprefix("pvt_")


def test_mixing_makes_probabilities_of_two_images():
    torch.manual_seed(0)
    preprocessor = ClsDataPreprocessor(mixup=0.8, cutmix=1.0, num_classes=5)
    images = torch.arange(4).mul(60).view(4, 1, 1, 1).expand(4, 3, 16, 16).to(torch.uint8)
    kinds = set()
    for _ in range(20):
        data = dict(inputs=images.clone(), labels=torch.tensor([0, 1, 2, 4]))
        mixed = preprocessor(data, training=True)
        assert mixed["labels"].shape == (4, 5)
        torch.testing.assert_close(mixed["labels"].sum(1), torch.ones(4))
        # The share of the image's own pixels, or of their value, is the share of its label.
        pixels = mixed["inputs"] * preprocessor.std + preprocessor.mean
        share = mixed["labels"][1, 1]
        torch.testing.assert_close(pixels[1, 0].mean(), 60 * share, atol=0.01, rtol=0)
        kinds.add("mixup" if pixels[1, 0].std() < 0.01 else "cutmix")
    assert kinds == {"mixup", "cutmix"}
    plain = preprocessor(dict(inputs=images, labels=torch.tensor([0, 1, 2, 4])), training=False)
    assert plain["labels"].tolist() == [0, 1, 2, 4]
    expected = (images.float() - preprocessor.mean) / preprocessor.std
    torch.testing.assert_close(plain["inputs"], expected)


def test_erasing_hits_a_quarter_of_the_images_with_normal_noise():
    torch.manual_seed(0)
    preprocessor = ClsDataPreprocessor(erasing=0.25)
    images = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    out = preprocessor(dict(inputs=images, labels=torch.zeros(400)), training=True)["inputs"]
    untouched = (-preprocessor.mean / preprocessor.std).expand_as(out[0])
    changed = (out != untouched).all(dim=1)  # (400, 32, 32)
    hit = changed.flatten(1).any(dim=1)
    assert 70 <= hit.sum() <= 130
    noise = out.permute(0, 2, 3, 1)[changed]
    assert abs(noise.mean().item()) < 0.05
    assert abs(noise.std().item() - 1) < 0.05
    shares = changed.flatten(1).float().mean(dim=1)[hit]
    assert shares.min() > 0.01
    assert shares.max() < 0.36


def test_augmented_images_differ_and_keep_their_type(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "a.png"
    Image.fromarray(procedural_image(60, 80)[0].permute(1, 2, 0).byte().numpy()).save(path)
    augment = DeiTAugment(size=32)
    outs = [augment(dict(img_path=path, gt_label=3)) for _ in range(8)]
    assert {(out["inputs"].dtype, tuple(out["inputs"].shape)) for out in outs} == {
        (torch.uint8, (3, 32, 32))
    }
    assert {out["labels"] for out in outs} == {3}
    assert len({out["inputs"].numpy().tobytes() for out in outs}) == 8


def test_the_recipe_trains_and_its_checkpoint_and_timms_are_tested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat", "dog"):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "data"))
    options = {
        "model.backbone.arch": "b0",
        "model.num_classes": 4,
        "model.data_preprocessor.num_classes": 4,
        "train_cfg.max_epochs": 1,
        "train_cfg.val_interval": 1,
        "train_dataloader.dataset.pipeline.0.size": 64,
    }
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        options[f"{loader}.batch_size"] = 4
        options[f"{loader}.num_workers"] = 0
        options[f"{loader}.persistent_workers"] = False
    config = ROOT / "configs" / "pvt_v2_b2_in1k.py"
    cfg = Config.fromfile(config)
    assert cfg.train_dataloader.dataset.pipeline[0].type == "pvt_mm.DeiTAugment"
    runner = train.run_train(config, work_dir="out", cfg_options=options)
    assert runner.iter == 2
    assert np.isfinite(runner.message_hub.get_scalar("train/loss").current())
    metrics = test_tool.run_test(config, "out/epoch_1.pth", work_dir="t", cfg_options=options)
    assert metrics["accuracy/top5"] == 100

    peer = timm.create_model("pvt_v2_b0", num_classes=4)
    torch.save(peer.state_dict(), "timm.pth")
    metrics = test_tool.run_test(config, "timm.pth", work_dir="t", cfg_options=options)
    assert metrics["accuracy/top5"] == 100
