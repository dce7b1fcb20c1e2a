"""What a network cannot take of a pipeline's images and labels is said before a run."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bad_data import Case, coco_place, noise, seg_place, write_labels
from mmengine.config import Config
from PIL import Image

from pvt_mm.data.check_dataset import check_dataset
from pvt_mm.data.checks import ERROR, KINDS
from pvt_mm.data.data_checks import check_data
from pvt_mm.errors import UserError
from pvt_mm.training.losses import WeightedCrossEntropyLoss

SEGMENTOR = dict(
    data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 64), mean=[1, 2, 3], std=[1] * 3),
    backbone=dict(type="pvt_mm.PVTv2"),
    decode_head=dict(num_classes=3, loss_decode=dict(type="CrossEntropyLoss")),
)
DETECTOR = dict(
    data_preprocessor=dict(type="DetDataPreprocessor", pad_size_divisor=32),
    backbone=dict(type="pvt_mm.PVT"),
)


def resized(width, height):
    """Give the second image, and its label map if it has one, another size."""

    def spoil(root, content):
        Image.fromarray(noise(2, (height, width, 3))).save(root / "img" / "2.jpg")
        if (root / "labels").exists():
            write_labels(root, 2, noise(2, (height, width)) % 3)
        for entry in content.get("images", ())[1:2]:
            entry.update(width=width, height=height)

    return spoil


def ignored(root, content):
    write_labels(root, 2, np.where(noise(5, (48, 64)) < 20, 255, noise(2, (48, 64)) % 3))


def nothing(root, content):
    pass


def padded(**test_cfg):
    return {"model.data_preprocessor.test_cfg": test_cfg}


IN_TWOS = {"val_dataloader.batch_size": 2, "train_dataloader.batch_size": 2}
IGNORE = "model.decode_head.ignore_index"
WEIGHTS = "model.decode_head.loss_decode.class_weight"
LOSS = "model.decode_head.loss_decode.type"
RESIZE = "val_dataloader.dataset.pipeline.2"
MEANS = {"model.data_preprocessor.mean": [1] * 4, "model.data_preprocessor.std": [1] * 4}
FOUR = {"model.backbone.in_channels": 4}
NO_PADDING = {"model.data_preprocessor.pad_size_divisor": 1}
# How the images are spoilt, options of the config, the split, and what is found.
SEG_CASES = {
    "sizes in evaluation": (resized(48, 64), IN_TWOS, "val", "batch-sizes", "64 x 48 and 48 x 64"),
    "one at a time": (resized(48, 64), {}, "val", None, ""),
    "sizes in training": (resized(48, 64), IN_TWOS, "train", None, ""),  # padded to one
    "sizes beyond the padding": (
        resized(48, 64),
        IN_TWOS | {"model.data_preprocessor.size": (32, 32)},
        "train",
        "batch-sizes",
        "64 x 48 and 48 x 64",
    ),
    "elongated": (resized(400, 60), {}, "val", "image-narrow", "400 x 60"),
    "elongated and padded": (resized(400, 60), padded(size_divisor=32), "val", None, ""),
    "elongated in training": (resized(400, 60), {}, "train", None, ""),
    "elongated for another backbone": (
        resized(400, 60),
        {"model.backbone.type": "ResNet"},
        "val",
        None,
        "",
    ),
    "small after scaling": (
        nothing,
        {f"{RESIZE}.scale": (32, 24), f"{RESIZE}.keep_ratio": False},
        "val",
        "image-small",
        "32 x 24 pixels",
    ),
    "channels": (nothing, FOUR, "train", "image-channels", "leaves 3 channels, model.backbone tak"),
    "means": (nothing, MEANS, "train", "image-channels", "model.data_preprocessor has 4 means"),
    "padding is not ignored": (
        nothing,
        {IGNORE: 0},
        "train",
        "targets-not-ignored targets-ignored-class",
        "255 in the",
    ),
    "padding by what is ignored": (
        nothing,
        {IGNORE: 0, "model.data_preprocessor.seg_pad_val": 0},
        "train",
        "targets-ignored-class",
        "model.decode_head.ignore_index is 0",
    ),
    "255 is not ignored": (
        ignored,
        {IGNORE: 0, "model.data_preprocessor.size": (48, 64)},
        "train",
        "targets-not-ignored targets-ignored-class",
        "255 in the label maps",
    ),
    "too few weights": (nothing, {WEIGHTS: [1, 2]}, "val", "class-weight", "2 weights in class"),
    "too many weights": (nothing, {WEIGHTS: [1] * 4}, "val", "class-weight", "for 3 classes"),
    "weights and ignored": (nothing, {WEIGHTS: [1] * 3}, "train", "targets-weighted", "of 255 are"),
    "weights and ignored, by our loss": (
        nothing,
        {WEIGHTS: [1] * 3, LOSS: "pvt_mm.WeightedCrossEntropyLoss"},
        "train",
        None,
        "",
    ),
}
QUERIES = {
    "model.type": "DINO",
    "model.num_queries": 85,  # of 64 x 64 pixels: 64 + 16 + 4 + 1
    "model.backbone.out_indices": (1, 2, 3),
    "model.neck": dict(num_outs=4),
}
DET_CASES = {
    "as many queries as tokens": (nothing, QUERIES, None, ""),
    "fewer tokens": (
        nothing,
        QUERIES | {"model.num_queries": 86},
        "image-queries",
        "64 x 64 pixels make 85 tokens, model.num_queries is 86",
    ),
    "two stages": (
        nothing,
        QUERIES
        | {"model.type": "DeformableDETR", "model.as_two_stage": True}
        | {"model.num_queries": 86},
        "image-queries",
        "85 tokens",
    ),
    "queries of their own": (
        nothing,
        QUERIES | {"model.type": "DeformableDETR", "model.num_queries": 86},
        None,
        "",
    ),
    "elongated": (resized(400, 60), {}, None, ""),
    "elongated without padding": (resized(400, 60), NO_PADDING, "image-narrow", "400 x 60"),
    "channels": (nothing, FOUR, "image-channels", "leaves 3 channels, model.backbone takes 4"),
    "means": (nothing, MEANS, "image-channels", "model.data_preprocessor has 4 means"),
}
OF_SMALL_SETS = {"class-unseen", "targets-ignored", "targets-tiny"}


def check(config, split, options, kind, named):
    (report,) = check_dataset(config, splits=[split], workers=0, cfg_options=options)
    found = [finding for *_, kept in report.findings.groups() for finding in kept]
    found = {finding.kind: finding.found for finding in found if finding.kind not in OF_SMALL_SETS}
    kinds = kind.split() if kind else []
    assert set(found) == set(kinds), found
    assert not kinds or named in found[kinds[0]]
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    if not any(KINDS[kind].level == ERROR for kind in kinds):
        check_data(cfg, (split,))
        return
    with pytest.raises(UserError) as refused:
        check_data(cfg, (split,))
    assert named in str(refused.value)


def written(config, model):
    text = config.read_text().replace("model = dict()", f"model = {model}")
    config.write_text(text)
    return config


@pytest.mark.parametrize(
    ("spoil", "options", "split", "kind", "named"), SEG_CASES.values(), ids=SEG_CASES
)
def test_segmentors(tmp_path, spoil, options, split, kind, named):
    check(written(seg_place(tmp_path, Case(spoil)), SEGMENTOR), split, options, kind, named)


@pytest.mark.parametrize(("spoil", "options", "kind", "named"), DET_CASES.values(), ids=DET_CASES)
def test_detectors(tmp_path, spoil, options, kind, named):
    config = written(coco_place(tmp_path, Case(spoil, masks=False)), DETECTOR)
    check(config, "train", options, kind, named)


@pytest.mark.parametrize("ignore_index", [255, 2])
def test_weighted_cross_entropy_is_that_of_torch(ignore_index):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, :2] = ignore_index
    weights = [0.5, 1.0, 2.0, 4.0]
    loss = WeightedCrossEntropyLoss(weights, loss_weight=3.0)
    expected = F.cross_entropy(
        logits, labels, torch.tensor(weights), ignore_index=ignore_index, reduction="mean"
    )
    torch.testing.assert_close(loss(logits, labels, ignore_index=ignore_index), 3 * expected)
    doubled = loss(logits, labels, torch.full((2, 5, 6), 2.0), ignore_index=ignore_index)
    torch.testing.assert_close(doubled, 6 * expected)


def test_weighted_cross_entropy_of_nothing():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = WeightedCrossEntropyLoss([1, 2])(logits, torch.full((1, 3, 3), 255))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
    with pytest.raises(ValueError, match="use_sigmoid must be False"):
        WeightedCrossEntropyLoss([1, 2], use_sigmoid=True)
