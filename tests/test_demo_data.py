"""The synthetic demo data: deterministic, whole or absent, and the same to mmdet and mmseg."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import pvt_mm.data.demo.dataset as demo
from pvt_mm.data.demo import CLASSES, SEG_CLASSES, DemoSpec, make_demo_data
from pvt_mm.data.demo.scenes import make_scene

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = DemoSpec(train=6, val=3, size=96)
SPLITS = {"training": 6, "validation": 3}
DETECTION = ("retinanet_pvt_v2_b0_fpn_demo", "mask_rcnn_pvt_v2_b0_fpn_demo")
SEGMENTATION = "fpn_pvt_v2_b0_demo"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "demo"
    assert make_demo_data(root, SPEC)
    return root


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def read_json(root, split):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def decode(segmentation):
    """COCO's run lengths, one pixel at a time."""
    height, width = segmentation["size"]
    pixels, value = [], 0
    for count in segmentation["counts"]:
        pixels += [value] * count
        value = 1 - value
    assert len(pixels) == height * width
    return np.array([pixels[x * height : (x + 1) * height] for x in range(width)]).T == 1


def test_two_runs_write_the_same_bytes(data, tmp_path):
    make_demo_data(tmp_path / "again", SPEC)
    first = digests(data)
    assert len(first) == 2 * (6 + 3) + 2 + 1
    assert digests(tmp_path / "again") == first


def test_a_scene_does_not_depend_on_how_many_there_are(data, tmp_path):
    make_demo_data(tmp_path / "fewer", DemoSpec(train=2, val=1, size=96))
    more, fewer = digests(data), digests(tmp_path / "fewer")
    pictures = [name for name in fewer if name.endswith(".png")]
    assert len(pictures) == 6
    assert {name: more[name] for name in pictures} == {name: fewer[name] for name in pictures}


def test_another_seed_gives_other_scenes():
    first, second = make_scene((0, 0, 0), 64), make_scene((1, 0, 0), 64)
    assert not np.array_equal(first.image, second.image)


def test_no_image_occurs_twice(data):
    pictures = [digest for name, digest in digests(data).items() if name.startswith("images/")]
    assert len(pictures) == 9
    assert len(set(pictures)) == 9


def test_every_class_occurs_and_objects_hide_each_other():
    scenes = [make_scene((0, 0, index), 96) for index in range(40)]
    labels = np.concatenate([scene.labels for scene in scenes])
    assert set(labels) == set(range(len(CLASSES)))
    areas = np.concatenate([scene.masks.sum(axis=(1, 2)) for scene in scenes])
    assert areas.min() >= 24
    assert areas.max() > 20 * areas.min()
    assert all(scene.masks.sum(axis=0).max() == 1 for scene in scenes)
    # A disc is convex: where its mask is not, something lies in front of it.
    discs = [scene.masks[i] for scene in scenes for i in np.flatnonzero(scene.labels == 0)]
    assert any(hull_area(mask) > 1.1 * mask.sum() for mask in discs)
    assert any(hull_area(mask) <= 1.1 * mask.sum() for mask in discs)


def hull_area(mask):
    hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
    return int(cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull, 1).sum())


@pytest.mark.parametrize(
    ("label", "area"),
    # Of shapes of circumradius 1; the star by the shoelace formula over its ten points.
    [
        ("disc", np.pi),
        ("box", 2.0),
        ("triangle", 3 * 3**0.5 / 4),
        ("star", 10 * 0.5 * 0.45 * np.sin(np.pi / 5)),
        ("ring", np.pi * (1 - 0.55**2)),
    ],
)
def test_shapes_have_the_area_of_geometry(label, area):
    from pvt_mm.data.demo import scenes

    y, x = np.mgrid[-1.2:1.2:600j, -1.2:1.2:600j]
    inside = scenes._DEPTH[label](x, y) > 0
    assert inside.mean() * 2.4**2 == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_fit_images_and_label_maps(data, split):
    content = read_json(data, split)
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4, 5]
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == SPLITS[split]
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0
    assert {annotation["image_id"] for annotation in content["annotations"]} == set(images)
    for image_id, image in images.items():
        picture = cv2.imread(str(data / "images" / split / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3) == (96, 96, 3)
        path = data / "annotations" / split / image["file_name"]
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = np.full((96, 96), 1)
        for annotation in content["annotations"]:
            if annotation["image_id"] != image_id:
                continue
            mask = decode(annotation["segmentation"])
            assert annotation["area"] == mask.sum() > 0
            assert annotation["iscrowd"] == 0
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()
            assert mask[top].any() and mask[top + height - 1].any()
            assert mask[:, left].any() and mask[:, left + width - 1].any()
            assert (expected[mask] == 1).all(), "two masks overlap"
            expected[mask] = 1 + annotation["category_id"]
        assert np.array_equal(labels, expected)
    assert len(list((data / "images" / split).iterdir())) == SPLITS[split]
    assert len(list((data / "annotations" / split).iterdir())) == SPLITS[split]


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (["00", "00"], [4]),
        (["11", "11"], [0, 4]),
        (["01", "00"], [2, 1, 1]),
        (["10", "11"], [0, 2, 1, 1]),
    ],
)
def test_run_lengths(rows, counts):
    mask = np.array([[character == "1" for character in row] for row in rows])
    assert demo.run_lengths(mask) == dict(size=[2, 2], counts=counts)


def test_a_second_call_writes_nothing(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert not make_demo_data(data, SPEC)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_an_interrupted_call_leaves_no_data_set(tmp_path, monkeypatch):
    root = tmp_path / "demo"
    calls = []

    def interrupted(seed, size):
        calls.append(seed)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return make_scene(seed, size)

    with monkeypatch.context() as patch:
        patch.setattr(demo, "make_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_demo_data(root, SPEC)
    assert not root.exists()
    assert make_demo_data(root, SPEC)
    assert len(list((root / "images" / "training").iterdir())) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("change", ["version", "spec"])
def test_other_data_are_replaced(tmp_path, monkeypatch, change):
    root = tmp_path / "demo"
    make_demo_data(root, DemoSpec(train=2, val=1, size=64))
    (root / "images" / "stray.txt").write_text("from before")
    spec = DemoSpec(train=2, val=1, size=64)
    if change == "version":
        monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    else:
        spec = DemoSpec(train=1, val=1, size=64)
    assert make_demo_data(root, spec)
    assert not (root / "images" / "stray.txt").exists()
    assert not make_demo_data(root, spec)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty and holds no demo\.json"):
        make_demo_data(tmp_path, SPEC)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(train=0), "train must be at least 1, but got 0"),
        (dict(val=-1), "val must be at least 1, but got -1"),
        (dict(size=32), "size must be at least 64, but got 32"),
        (dict(seed=-1), "seed must be at least 0, but got -1"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DemoSpec(**arguments)


def test_the_tool_writes_and_refuses(tmp_path):
    def run(*arguments):
        command = [sys.executable, "tools/make_demo_data.py", "--out", str(tmp_path / "demo")]
        return subprocess.run(
            [*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True
        )

    few = ("--train", "2", "--val", "1", "--size", "64")
    assert run(*few).stdout.startswith("wrote 2 training and 1 validation images in ")
    assert run(*few).stdout.startswith("found 2 training and 1 validation images in ")
    refused = run("--size", "8")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith("size must be at least 64, but got 8")


def build_dataset(name, split, root, monkeypatch):
    pytest.importorskip("mmseg" if name == SEGMENTATION else "mmdet")
    from mmengine.config import Config
    from mmengine.registry import DATASETS, init_default_scope

    monkeypatch.setenv("DEMO_ROOT", root)
    cfg = Config.fromfile(REPOSITORY / "configs" / f"{name}.py")
    init_default_scope(cfg.default_scope)
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        return cfg, registry.build(cfg[f"{split}_dataloader"].dataset)


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", DETECTION)
def test_mmdet_loads_the_annotations(data, monkeypatch, name, split, slash):
    cfg, dataset = build_dataset(name, split, f"{data}{slash}", monkeypatch)
    folder = {"train": "training", "val": "validation"}[split]
    content = read_json(data, folder)
    assert dataset.metainfo["classes"] == CLASSES
    assert len(dataset.metainfo["palette"]) == len(CLASSES)
    assert len(dataset) == SPLITS[folder]
    for index, image in enumerate(content["images"]):
        truth = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        sample = dataset[index]["data_samples"]
        boxes = sample.gt_instances.bboxes.tensor.numpy()
        assert len(boxes) == len(truth)
        assert sample.gt_instances.labels.tolist() == [a["category_id"] - 1 for a in truth]
        # In training the image comes enlarged to the network's input, in tests the boxes do not.
        scale = 128 / 96 if split == "train" else 1
        widths = [a["bbox"][2] * scale for a in truth]
        assert boxes[:, 2] - boxes[:, 0] == pytest.approx(widths, abs=1e-3)
        if name.startswith("mask"):
            areas = sample.gt_instances.masks.masks.sum(axis=(1, 2))
            expected = np.array([a["area"] for a in truth]) * scale**2
            assert areas == pytest.approx(expected, rel=0.1)
    assert Path(cfg.val_evaluator.ann_file).is_file()


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_mmseg_loads_the_label_maps(data, monkeypatch, split, slash):
    cfg, dataset = build_dataset(SEGMENTATION, split, f"{data}{slash}", monkeypatch)
    folder = {"train": "training", "val": "validation"}[split]
    assert dataset.metainfo["classes"] == SEG_CLASSES
    assert len(dataset.metainfo["palette"]) == len(SEG_CLASSES)
    assert len(dataset) == SPLITS[folder]
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)["seg_map_path"]
        stored = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        labels = dataset[index]["data_samples"].gt_sem_seg.data[0].numpy()
        assert set(np.unique(labels)) == {value - 1 for value in np.unique(stored)}
        if split == "val":
            assert np.array_equal(labels, stored - 1)


def test_the_configs_agree_on_colours():
    Config = pytest.importorskip("mmengine.config").Config
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    detection, other, segmentation = (
        Config.fromfile(REPOSITORY / "configs" / f"{name}.py").val_dataloader.dataset.metainfo
        for name in (*DETECTION, SEGMENTATION)
    )
    assert len(set(detection.palette)) == len(CLASSES)
    assert other == detection
    assert segmentation.palette[1:] == detection.palette


@pytest.mark.parametrize("name", DETECTION)
def test_perfect_detections_score_one(data, monkeypatch, name):
    """The metric reads the same masks and boxes as the data set."""
    cfg, dataset = build_dataset(name, "val", str(data), monkeypatch)
    import torch
    from mmdet.registry import METRICS
    from pycocotools import mask as mask_utils

    with METRICS.switch_scope_and_registry("mmdet") as registry:
        metric = registry.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        instances = info["instances"]
        masks = [
            mask_utils.decode(mask_utils.frPyObjects(instance["mask"], 96, 96))
            for instance in instances
        ]
        predictions = dict(
            bboxes=torch.tensor([instance["bbox"] for instance in instances]).float(),
            labels=torch.tensor([instance["bbox_label"] for instance in instances]),
            scores=torch.ones(len(instances)),
            masks=torch.from_numpy(np.stack(masks)).bool(),
        )
        sample = dict(img_id=info["img_id"], ori_shape=(96, 96), pred_instances=predictions)
        metric.process({}, [sample])
    scores = metric.evaluate(len(dataset))
    assert scores["coco/bbox_mAP"] == pytest.approx(1.0, abs=1e-3)
    if name.startswith("mask"):
        assert scores["coco/segm_mAP"] == pytest.approx(1.0, abs=1e-3)
