"""A figure that rests on nothing, or on a part of the classes, says so beside itself."""

import json
import logging
import re
from pathlib import Path

import given
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from pvt_mm.training.test import run_test
from pvt_mm.training.train import run_train

SIZE = 64
RIGHT = [0, 10, 10, 40, 40]  # the box of every cat, with its label
CAT, DOG = 3, 7  # ids of the categories


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(given.__file__).parent))
    monkeypatch.setattr(logging, "raiseExceptions", False)


def loader(dataset):
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {"batch_size": 2, "num_workers": 0, "sampler": sampler, "dataset": dataset}


def write(folder, model, dataset, evaluator, scope, **more):
    torch.save({"state_dict": {"weight": torch.ones(1)}}, folder / "model.pth")
    preprocessor = {
        "mmdet": {"type": "DetDataPreprocessor"},
        "mmseg": {"type": "SegDataPreProcessor", "size": (SIZE, SIZE)},
    }[scope]
    content = {
        "custom_imports": {"imports": ["given"]},
        "default_scope": scope,
        "work_dir": str(folder / "out"),
        "model": {**model, "data_preprocessor": preprocessor},
        **{f"{split}_dataloader": loader(dataset) for split in ("val", "test")},
        **{f"{split}_evaluator": evaluator for split in ("val", "test")},
        **{f"{split}_cfg": {} for split in ("val", "test")},
        **more,
    }
    path = folder / f"{folder.name}.py"  # runs of one name and second share a logger
    Config(content).dump(str(path))
    return path


def image(folder, name):
    (folder / "img").mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "img" / name)


def detection(folder, found, objects, classes=("cat", "dog"), **more):
    """Two images with the same objects: ``(category, x, y, width, height, iscrowd)``."""
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]
    for key in (1, 2):
        image(folder, f"{key}.png")
        entry = {"id": key, "file_name": f"{key}.png", "width": SIZE, "height": SIZE}
        content["images"].append(entry)
        for category, *box, crowd in objects:
            annotation = {"id": len(content["annotations"]) + 1, "image_id": key, "bbox": box}
            annotation |= {"category_id": category, "area": box[2] * box[3], "iscrowd": crowd}
            content["annotations"].append(annotation)
    (folder / "a.json").write_text(json.dumps(content))
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    dataset = {
        "type": "CocoDataset",
        "data_root": str(folder),
        "ann_file": "a.json",
        "data_prefix": {"img": "img"},
        "metainfo": {"classes": classes},
        "test_mode": True,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "PackDetInputs", "meta_keys": keys},
        ],
    }
    evaluator = {"type": "CocoMetric", "ann_file": str(folder / "a.json"), "metric": ["bbox"]}
    model = {"type": "GivenBoxes", "found": found}
    return write(folder, model, dataset, evaluator, "mmdet", **more)


def segmentation(folder, predicted, labels, classes):
    for key in (1, 2):
        image(folder, f"{key}.png")
        (folder / "labels").mkdir(exist_ok=True)
        Image.fromarray(labels).save(folder / "labels" / f"{key}.png")
    dataset = {
        "type": "BaseSegDataset",
        "data_root": str(folder),
        "data_prefix": {"img_path": "img", "seg_map_path": "labels"},
        "img_suffix": ".png",
        "metainfo": {"classes": classes, "palette": [[9 * n] * 3 for n in range(len(classes))]},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {"type": "PackSegInputs"},
        ],
    }
    model = {"type": "GivenLabels", "classes": predicted}
    return write(folder, model, dataset, {"type": "IoUMetric"}, "mmseg")


def run_given(folder, config):
    """Test; returns the metrics, and what the log says of their evidence."""
    metrics = run_test(config, folder / "model.pth")
    log = next((folder / "out").glob("*/*.log")).read_text()
    for name, value in metrics.items():
        assert f"{name}: {value:.4f}" in log
    return metrics, [line for line in log.splitlines() if "what it rests on" in line]


CAT_BOX, DOG_BOX = (CAT, 10, 10, 30, 30, 0), (DOG, 44, 5, 16, 20, 0)


@pytest.mark.parametrize(
    ("found", "objects", "ap", "said"),
    [
        ([RIGHT, [1, 44, 5, 60, 25]], [CAT_BOX, DOG_BOX], 1, []),
        ([], [CAT_BOX, DOG_BOX], 0, ["mAP 0.000, what it rests on: nothing was found, of 4 obj"]),
        ([RIGHT], [CAT_BOX, DOG_BOX], 0.5, ["nothing was found of dog, which count as 0"]),
        ([RIGHT], [CAT_BOX], 1, ["have no object of dog; the mean is over 1 of 2 classes"]),
        ([RIGHT], [], -1, ["the annotations have no object to find"]),
        ([RIGHT], [(*CAT_BOX[:-1], 1)], -1, ["the annotations have no object to find"]),
    ],
    ids=["sound", "none found", "one class found", "one class there", "none there", "crowds"],
)
def test_average_precision(tmp_path, found, objects, ap, said):
    metrics, lines = run_given(tmp_path, detection(tmp_path, found, objects))
    assert metrics["coco/bbox_mAP"] == ap and "coco/bbox_mAP_l" in metrics
    sizes = [line for line in lines if "-1 (coco/bbox_mAP" in line]
    assert bool(sizes) == (-1 in metrics.values())  # no object here is large
    lines = [line for line in lines if line not in sizes]
    assert len(lines) == len(said) and all(map(str.__contains__, lines, said)), lines


def test_the_best_checkpoint_where_nothing_is_found(tmp_path):
    checkpoint = {"type": "CheckpointHook", "interval": 1, "save_best": "coco/bbox_mAP"}
    config = detection(
        tmp_path,
        [],
        [CAT_BOX],
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": checkpoint},
    )
    cfg = Config.fromfile(config)
    cfg.train_dataloader = cfg.val_dataloader
    cfg.dump(str(config))
    run_train(config)
    assert (tmp_path / "out" / "best_coco_bbox_mAP_epoch_1.pth").is_file()


def rows(*values):
    """Label maps whose rows take turns in some classes, as GivenLabels predicts them."""
    return np.array(values, np.uint8)[np.arange(SIZE) % len(values), None].repeat(SIZE, 1)


@pytest.mark.parametrize(
    ("predicted", "labels", "classes", "iou", "said"),
    [
        (2, rows(0, 1), "ab", 100, []),
        (2, rows(0, 1), "abc", 100, ["no pixel is c, labelled or predicted; .* 2 of 3 classes"]),
        (3, rows(0, 1, 1), "abc", 50, ["c predicted, but not in the label maps"]),
        (1, rows(0, 1), "ab", 25, ["b never predicted: counts as 0"]),
        (1, rows(0, 255), "ab", 100, ["only a is in the label maps", "no pixel is b"]),
        (2, rows(255), "ab", None, ["no pixel that counts"]),
    ],
    ids=["sound", "absent", "only predicted", "never predicted", "one", "ignored"],
)
def test_intersection_over_union(tmp_path, predicted, labels, classes, iou, said):
    config = segmentation(tmp_path, predicted, labels, tuple(classes))
    metrics, lines = run_given(tmp_path, config)
    assert np.isnan(metrics["mIoU"]) if iou is None else metrics["mIoU"] == iou
    assert len(lines) == len(said), lines
    for line, text in zip(lines, said, strict=True):
        assert re.search(text, line)
