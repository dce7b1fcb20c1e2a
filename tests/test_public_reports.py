"""What people report of data of their own in other projects' trackers, tried here.

Each case is named after a report. None of them may end in a traceback or in a figure that is wrong
without a word: `tools/check_dataset.py`, which shares its code with training, or
`tools/prepare_data.py` has to say what is wrong.
"""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from recipes import CONFIGS

from pvt_mm.data import check_dataset
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.data.prepare import tool as prepare

DETECTOR = str(CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py")
MASKS = str(CONFIGS / "mask_rcnn_pvt_v2_b0_fpn_demo.py")
SEGMENTOR = str(CONFIGS / "fpn_pvt_v2_b0_demo.py")
TRAIN, VAL = "training", "validation"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    make_demo_data(root, DemoSpec(train=4, val=2, size=64))
    return root


@pytest.fixture
def place(demo, tmp_path, monkeypatch):
    shutil.copytree(demo, tmp_path / "demo")
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "demo"))
    return tmp_path / "demo"


def objects(split, change):
    """Change the content of a split's annotation file."""

    def spoil(root):
        path = root / f"annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def each(field, change):
    def all_of_them(content):
        for entry in content[field]:
            change(entry)

    return all_of_them


def pixels(change, split="*"):
    """Change label maps."""

    def spoil(root):
        paths = list(root.glob(f"annotations/{split}/*.png"))
        assert paths
        for path in paths:
            cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return spoil


def image(change):
    def spoil(root):
        change(root / f"images/{TRAIN}/{TRAIN}_00000.png")

    return spoil


def nothing(root):
    pass


CLASSES = "train_dataloader.dataset.metainfo.classes"
CHECKED = {
    "mmdetection 9611: a misspelt class shifts those after it": (
        DETECTOR,
        nothing,
        [f"{CLASSES}=('disc','boxx','ring')"],
        "error category-order.*'ring' .id 5. gets label 1, which is 'boxx'",
    ),
    "mmdetection 4243: classes in another case": (
        DETECTOR,
        objects(VAL, each("categories", lambda c: c.update(name=c["name"].title()))),
        [],
        "error class-name.*none of the data set's classes .*Disc, Box",
    ),
    "mmdetection 10294: classes of another data set": (
        DETECTOR,
        objects(TRAIN, each("categories", lambda c: c.update(name=f"type {c['id']}"))),
        [],
        "error class-name.*set metainfo.classes of the data set",
    ),
    "mmdetection 11557: nothing is annotated": (
        DETECTOR,
        objects(TRAIN, lambda content: content.update(annotations=[])),
        [],
        "error no-annotations.*lists no annotations",
    ),
    "mmdetection 4246: heads of another number of classes": (
        DETECTOR,
        nothing,
        ["model.bbox_head.num_classes=4"],
        "error model-classes.*num_classes is 4, but train_dataloader.dataset has 5 classes",
    ),
    "mmdetection 3397: boxes with negative corners": (
        DETECTOR,
        objects(TRAIN, lambda content: content["annotations"][0].update(bbox=[-9, -9, 5, 5])),
        [],
        r"warning box-outside.*annotation 1 of image 1 .*bbox is \[-9, -9, 5, 5\]",
    ),
    "mmdetection 3315: boxes without width": (
        DETECTOR,
        objects(TRAIN, lambda content: content["annotations"][0].update(bbox=[3, 3, 0, 7])),
        [],
        "warning box-empty.*the annotation is not used in training",
    ),
    "mmdetection 3013: width and height exchanged": (
        DETECTOR,
        objects(TRAIN, lambda content: content["images"][0].update(width=32)),
        [],
        "error image-size.*64 x 64, but 32 x 64 in the annotation file",
    ),
    "mmdetection 5594: ids that are texts": (
        DETECTOR,
        objects(TRAIN, each("annotations", lambda a: a.update(image_id=str(a["image_id"])))),
        [],
        "error annotation-entry.*image_id is '1'",
    ),
    "mmdetection 210: a polygon that is no list of lists": (
        MASKS,
        objects(TRAIN, each("annotations", lambda a: a.update(segmentation=[1, 1, 5, 1, 5, 5]))),
        [],
        "error mask .*expected a list of polygons",
    ),
    "mmsegmentation 1609: masks of 0 and 255": (
        SEGMENTOR,
        pixels(lambda labels: np.where(labels > 1, 255, 0).astype(np.uint8)),
        [],
        "error targets-none.*every pixel of all 4 samples is ignored",
    ),
    "mmsegmentation 1335: grey values between 0 and 255": (
        SEGMENTOR,
        pixels(lambda labels: np.clip(labels.astype(int) * 60, 0, 254).astype(np.uint8)),
        [],
        r"error label-value.*values 60 \(",
    ),
    "mmsegmentation 185: label maps of colours": (
        SEGMENTOR,
        pixels(lambda labels: cv2.cvtColor(labels, cv2.COLOR_GRAY2BGR)),
        [],
        "error label-colour.*3 channels",
    ),
    "mmsegmentation 964: a validation of one class alone": (
        SEGMENTOR,
        pixels(np.ones_like, VAL),
        [],
        "warning targets-one-class.*only 'background' is in the label maps",
    ),
    "mmsegmentation 1601: 0 is a class, and ignored": (
        SEGMENTOR,
        pixels(lambda labels: labels - 1),
        [],
        "targets-shifted.*0 is ignored, 1 is 'background'",
    ),
    "mmsegmentation 1558: a class that the head ignores": (
        SEGMENTOR,
        nothing,
        ["model.decode_head.ignore_index=0"],
        "warning targets-ignored-class.*ignore_index is 0, the number of a class",
    ),
    "ultralytics 20138: an image cut short": (
        DETECTOR,
        image(lambda path: path.write_bytes(path.read_bytes()[:200])),
        [],
        f"error image-broken.*{TRAIN}_00000.png",
    ),
}


@pytest.mark.parametrize(("config", "spoil", "options", "said"), CHECKED.values(), ids=CHECKED)
def test_data_sets_are_checked(place, capsys, config, spoil, options, said):
    spoil(place)
    options = ["--cfg-options", *options] if options else []
    code = check_dataset.main([config, "--workers", "0", *options])
    printed = capsys.readouterr().out
    assert re.search(said, printed, re.DOTALL), printed
    assert code == ("error " in said or "targets-shifted" in said)


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize(
    ("config", "metric"), [(DETECTOR, "VOCMetric"), (SEGMENTOR, "IoUMetric")], ids=["det", "seg"]
)
def test_mmdetection_10085_labels_that_are_resized_and_scored(
    place, tmp_path, capsys, order, config, metric
):
    text = f"""_base_ = {config!r}
steps = [dict(type="LoadAnnotations"), dict(type="Resize", scale=(96, 96), keep_ratio=True)]
if {order!r} == "behind":
    steps.reverse()
if {metric!r} == "VOCMetric":
    steps = [dict(step, with_bbox=True) if "Load" in step["type"] else step for step in steps]
keep = _base_.val_dataloader.dataset.pipeline
val_dataloader = dict(dataset=dict(pipeline=[keep[0], *steps, keep[-1]]))
val_evaluator = dict(_delete_=True, type={metric!r})
del steps, keep
"""
    (tmp_path / "own.py").write_text(text)
    code = check_dataset.main([str(tmp_path / "own.py"), "--split", "val", "--workers", "0"])
    printed = capsys.readouterr().out
    said = f"error evaluator-labels.*before a Resize, and {metric} scores what it loads"
    assert bool(re.search(said, printed, re.DOTALL)) == (order == "before") == code, printed


def yolo(lines):
    """A data set of YOLO with these lines for one image of 100 x 50 pixels."""

    def write(root):
        for name in ("images", "labels"):
            (root / name).mkdir(parents=True)
        (root / "data.yaml").write_text("path: .\ntrain: images\nnames: [part, nut]\n")
        rng = np.random.default_rng(0)
        for index in range(3):
            noise = rng.integers(0, 255, (50, 100, 3), np.uint8)
            cv2.imwrite(str(root / f"images/{index}.jpg"), noise)
            (root / f"labels/{index}.txt").write_text("0 0.5 0.5 0.2 0.4\n")
        (root / "labels/0.txt").write_text(lines)

    return write


def turned(root):
    """A photo that the camera turned, labelled as it was before."""
    yolo("0 0.5 0.5 0.2 0.4\n")(root)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "images/0.jpg").save(root / "images/0.jpg", exif=exif)


PREPARED = {
    "yolov5 4798: coordinates in pixels": (
        yolo("0 50 25 20 20\n"),
        "left out: 1 objects whose box is .*outside of the image: images/0.jpg",
    ),
    "yolov5 3509: a box a little beyond the image": (
        yolo("0 0.4 0.5 0.4 1.0025\n"),
        "objects +2 +1",
    ),
    "yolov5 10632: a polygon a little beyond the image": (
        yolo("0 0.1 0.1 1.0021 0.1 0.9 0.9\n"),
        "objects +2 +1",
    ),
    "yolov5 3656: a line that is cut short": (yolo("0 0.5 0.5\n"), "left out: 1 .*labels/0.txt"),
    "ultralytics 13924: a class that the file does not name": (
        yolo("7 0.5 0.5 0.2 0.4\n"),
        "left out: 1 objects of class 7, of 2 names: images/0.jpg",
    ),
    "ultralytics 19222: a photo that was turned by its EXIF": (
        turned,
        "objects +2 +1",
    ),
}


@pytest.mark.parametrize(("write", "said"), PREPARED.values(), ids=PREPARED)
def test_labels_are_read(tmp_path, capsys, write, said):
    write(tmp_path / "in")
    code = prepare.main([str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert re.search(said, printed.out), printed.out
