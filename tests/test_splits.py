"""What training and validation share, and what only the validation has, is named."""

import json
import shutil

import pytest
from bad_data import Case, coco_content, coco_place, noise, seg_place, write_labels
from mmengine.config import Config
from PIL import Image

from pvt_mm.data.check_dataset import check_dataset
from pvt_mm.data.data_checks import check_data

SHARED, CLASS = "split-shared", "split-class"


def nothing(root, content):
    pass


def new_images(folder):
    folder.mkdir()
    for number in (1, 2, 3):
        pixels = noise(100 + number, (48, 64, 3))
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def detection(root, change, classes=(1, 1, 1)):
    """A training set of discs, and a validation set of other images."""
    config = coco_place(root, Case(nothing, masks=False))
    content = coco_content()
    for annotation, category in zip(content["annotations"], classes, strict=True):
        annotation["category_id"] = category
    new_images(root / "val")
    change(root)
    (root / "b.json").write_text(json.dumps(content))
    config.write_text(
        config.read_text()
        + "val_dataloader['dataset'].update(ann_file='b.json', data_prefix=dict(img='val/'))\n"
    )
    return config


def segmentation(root, change, labels):
    config = seg_place(
        root, Case(lambda root, _: [write_labels(root, n, even(n)) for n in (1, 2, 3)])
    )
    new_images(root / "val")
    (root / "val_labels").mkdir()
    for number in (1, 2, 3):
        Image.fromarray(labels(number)).save(root / "val_labels" / f"{number}.png")
    change(root)
    config.write_text(
        config.read_text() + "val_dataloader['dataset'].update("
        "data_prefix=dict(img_path='val', seg_map_path='val_labels'))\n"
    )
    return config


def even(number):
    return noise(number, (48, 64)) % 2


def three(number):
    return noise(number, (48, 64)) % 3


def copied(root):
    """Under another name: the content counts."""
    shutil.copy(root / "img" / "2.jpg", root / "val" / "3.jpg")


CASES = {
    "apart": (detection, nothing_more := lambda root: None, (1, 1, 1), {}),
    "a copy": (detection, copied, (1, 1, 1), {SHARED: "1 of 3 images are trained on, too"}),
    "a class": (detection, nothing_more, (1, 2, 1), {CLASS: "has box, of which the training"}),
    "pixels apart": (segmentation, nothing_more, even, {}),
    "pixels, a copy": (segmentation, copied, even, {SHARED: "val/3.jpg is "}),
    "pixels of a class": (segmentation, nothing_more, three, {CLASS: "has road, of which"}),
}


@pytest.mark.parametrize(("make", "change", "labels", "expected"), CASES.values(), ids=CASES)
def test_splits(tmp_path, make, change, labels, expected):
    config = make(tmp_path, change, labels)
    reports = check_dataset(config, splits=["train", "val"], workers=0)
    found = {
        kind: kept[0].found
        for report in reports[1:]
        for _, kind, _, kept in report.findings.groups()
        if kind in (SHARED, CLASS)
    }
    assert found.keys() == expected.keys()
    assert all(text in found[kind] for kind, text in expected.items()), found
    check_data(Config.fromfile(config), ("train", "val"))  # said, not refused
