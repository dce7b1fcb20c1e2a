"""The page about a run: what it counts, what it escapes, and that it is whole by itself."""

import base64
import json
import pickle
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from mmengine.fileio import dump, load
from pycocotools import mask as coco_masks

from pvt_mm.reporting.confusion import Confusion, most_confused, plot_confusion, worst_pairs
from pvt_mm.reporting.report import main

HOSTILE = "<script>alert('a&b')</script>"
MATH = "$\\frac$"  # matplotlib would refuse it as a formula
SIDE = 64  # pixels of the images
BOXES = ((4, 4, 20, 20), (36, 4, 20, 20), (4, 36, 20, 20))  # x, y, width, height

DETECTOR = """
default_scope = "mmdet"
model = dict(type="RetinaNet")
metainfo = dict(classes={classes!r}, palette=[(200, 0, 0), (0, 200, 0), (0, 0, 200)])
test_dataloader = dict(dataset=dict(
    type="CocoDataset", data_root={root!r}, ann_file="truth.json", data_prefix=dict(img="images"),
    test_mode=True, metainfo=metainfo, pipeline=[dict(type="LoadImageFromFile")]))
test_evaluator = dict(
    type="CocoMetric", ann_file={root!r} + "/truth.json", metric={metric!r})
"""
VOC = """
default_scope = "mmdet"
model = dict(type="RetinaNet")
test_dataloader = dict(dataset=dict(
    type="VOCDataset", data_root={root!r}, ann_file="VOC2007/ImageSets/Main/test.txt",
    data_prefix=dict(sub_data_root="VOC2007/"), test_mode=True, metainfo=dict(
        classes={classes!r}, palette=[(200, 0, 0), (0, 200, 0), (0, 0, 200)]),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]))
test_evaluator = dict(type="VOCMetric", metric="mAP", eval_mode={mode!r}, iou_thrs={ious!r})
"""
SEGMENTOR = """
default_scope = "mmseg"
model = dict(type="EncoderDecoder")
test_dataloader = dict(dataset=dict(
    type="BaseSegDataset", data_root={root!r}, img_suffix=".png", reduce_zero_label=True,
    data_prefix=dict(img_path="images", seg_map_path="maps"), test_mode=True,
    metainfo=dict(classes={classes!r}, palette=[(200, 0, 0), (0, 200, 0), (0, 0, 200)]),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]))
test_evaluator = dict(type="IoUMetric")
"""
LOG = """2026/01/01 10:00:00 - mmengine - INFO -
------------------------------------------------------------
System environment:
    PyTorch: 2.13.0
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

Runtime environment:
    seed: 7
------------------------------------------------------------
2026/01/01 10:30:00 - mmengine - WARNING - coco/bbox_mAP 0.500, what it rests on: of the first
2026/01/01 10:30:00 - mmengine - INFO - Epoch(val) [1][8/8]    coco/bbox_mAP: 0.5000
2026/01/01 11:00:00 - mmengine - INFO - Epoch(val) [2][8/8]    eta: 0:00:00  time: 0.1
2026/01/01 11:00:00 - mmengine - WARNING - coco/bbox_mAP 0.250, what it rests on: of the last
2026/01/01 11:00:00 - mmengine - INFO - Epoch(val) [2][8/8]    coco/bbox_mAP: 0.2500
2026/01/01 11:30:05 - mmengine - INFO - done
"""


class Page(HTMLParser):
    """What a page shows, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.tags, self.tables, self.texts, self.lazy = [], [], [], [], []
        self.styles, self.cell = "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.sources += [values[key] for key in ("src", "href", "srcset", "data") if key in values]
        if tag == "img":
            self.lazy.append(values.get("loading"))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.cell = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data
        if self.tags[-1:] == ["style"]:
            self.styles += data
        self.texts.append(data)

    def table(self, heading):
        return next(table[1:] for table in self.tables if table[0][0] == heading)

    def pictures(self, kind):
        start = f"data:{kind};base64,"
        return [base64.b64decode(s[len(start) :]) for s in self.sources if s.startswith(start)]


def work_dir(path, config, classes, metrics, **values):
    """A work directory as a training leaves it, of one start."""
    start = path / "20260101_100000"
    (start / "vis_data").mkdir(parents=True)
    (start / "20260101_100000.log").write_text(LOG)
    lines = [dict(lr=0.1, loss=3.0 - i, iter=i, epoch=i, step=i) for i in (1, 2)]
    lines += [{**metrics, "step": 1}, {**{k: v / 2 for k, v in metrics.items()}, "step": 2}]
    (start / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)))
    text = config.format(root=str(path / "data"), classes=classes, **values)
    for file in (start / "vis_data" / "config.py", path / "mine.py"):
        file.write_text(text)
    (path / "last_checkpoint").write_text("/elsewhere/epoch_2.pth")
    (path / "data" / "images").mkdir(parents=True)
    return path


def blank(path):
    cv2.imwrite(str(path), np.full((SIDE, SIDE, 3), 128, np.uint8))


def coco_box(box):
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    x, y, width, height = box
    mask[y : y + height, x : x + width] = 1
    return mask


def detection(path, classes, found, metric="bbox"):
    """A detector's run on two images that each hold one object of each class.

    Args:
        found: For each image its predictions: (label, index of the box, score).
    """
    run = work_dir(path, DETECTOR, classes, {"coco/bbox_mAP": 0.5}, metric=metric)
    annotations, samples = [], []
    for image in (1, 2):
        file = run / "data" / "images" / f"{image}.png"
        blank(file)
        for label, box in enumerate(BOXES):
            x, y, w, h = box
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=label + 1,
                    bbox=box,
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
        predicted = found[image - 1]
        boxes = torch.tensor([BOXES[box] for _, box, _ in predicted], dtype=torch.float32)
        boxes = boxes.reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = dict(
            bboxes=boxes,
            labels=torch.tensor([label for label, _, _ in predicted], dtype=torch.int64),
            scores=torch.tensor([score for _, _, score in predicted], dtype=torch.float32),
        )
        if "segm" in metric:
            instances["masks"] = [
                coco_masks.encode(coco_box(BOXES[box])) for _, box, _ in predicted
            ]
        samples.append(dict(img_id=image, img_path=str(file), pred_instances=instances))
    truth = dict(
        images=[dict(id=i, file_name=f"{i}.png", height=SIDE, width=SIDE) for i in (1, 2)],
        annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(classes)],
    )
    (run / "data" / "truth.json").write_text(json.dumps(truth))
    dump(samples, run / "predictions.pkl")  # as mmengine's own dump of test results
    return run


# The first image: all right. The second: class 0 is taken for 1, 1 is found, 2 is too weak.
FOUND = (
    [(0, 0, 0.9), (1, 1, 0.9), (2, 2, 0.9)],
    [(1, 0, 0.8), (1, 1, 0.9), (2, 2, 0.2)],
)


def on_voc(path, found, mode="11points", ious=0.5, difficult=()):
    """The same run, on Pascal VOC's files; ``difficult`` lists pairs of an image and a class."""
    run = detection(path / "coco", ("cat", "dog", "cow"), found)
    samples = load(run / "predictions.pkl")
    run = work_dir(path / "voc", VOC, ("cat", "dog", "cow"), {}, mode=mode, ious=ious)
    root = run / "data" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for sample in samples:
        stem = sample["img_path"].rpartition("/")[2].partition(".")[0]
        sample.update(img_id=stem, img_path=str(root / "JPEGImages" / f"{stem}.jpg"))
        blank(sample["img_path"])
        objects = "".join(
            f"<object><name>{name}</name>"
            f"<difficult>{int((int(stem), name) in difficult)}</difficult>"
            f"<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"  # pixels from 1 on
            f"<xmax>{x + w + 1}</xmax><ymax>{y + h + 1}</ymax></bndbox></object>"
            for name, (x, y, w, h) in zip(("cat", "dog", "cow"), BOXES, strict=True)
        )
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size>{objects}"
            "</annotation>"
        )
    (root / "ImageSets" / "Main" / "test.txt").write_text("1\n2\n")
    dump(samples, run / "predictions.pkl")
    return run


def report(run, *options):
    assert main([str(run), *map(str, options)]) == 0
    return Page((run / "report.html").read_text())


def test_detection_counts_what_was_planted(tmp_path):
    page = report(detection(tmp_path / "run", ("cat", "dog", HOSTILE), FOUND))
    # AP of class 0: one of two objects, found first: precision 1 up to recall 0.5, 51 of 101
    # points. Class 1: both found before the false one. Class 2: both, the weak one counts in AP.
    half = f"{51 / 101:.3f}"
    assert page.table("class") == [
        ["cat", half, half, half, "2", "1", "0"],
        ["dog", "1.000", "1.000", "1.000", "2", "0", "1"],
        [HOSTILE, "1.000", "1.000", "1.000", "2", "1", "0"],
    ]
    text = "".join(page.texts)
    assert re.search(rf"box AP\s+{(2 + 51 / 101) / 3:.3f}", text)
    assert page.table("true") == [
        ["cat", "dog", "1", "50.0%"],
        [HOSTILE, "(nothing)", "1", "50.0%"],
    ]
    # The second image: one found, two missed, one false.
    assert f"2.png: {2 / (2 + 2 + 1):.3f}. 1 of 3 found; missed: 1 cat, 1 {HOSTILE}; " in text
    assert "1.png: 1.000. 3 of 3 found" in text
    assert text.index("2.png") < text.index("1.png")  # the worst ones come first
    assert len(page.pictures("image/jpeg")) == 4


@pytest.mark.parametrize(("mode", "half"), [("11points", 6 / 11), ("area", 0.5)])
def test_pascal_voc_is_scored_as_its_metric_scores_it(tmp_path, mode, half):
    page = report(on_voc(tmp_path, FOUND, mode, [0.5, 0.75]))
    # AP of class 0: one of two objects, found first, so precision is 1 up to recall 0.5.
    assert page.table("class") == [
        ["cat", f"{half:.3f}", f"{half:.3f}", "2", "1", "0"],
        ["dog", "1.000", "1.000", "2", "0", "1"],
        ["cow", "1.000", "1.000", "2", "1", "0"],
    ]
    text = "".join(page.texts)
    assert re.search(rf"VOC AP50\s+{(2 + half) / 3:.3f}", text)
    assert page.table("true") == [
        ["cat", "dog", "1", "50.0%"],
        ["cow", "(nothing)", "1", "50.0%"],
    ]
    assert len(page.pictures("image/jpeg")) == 4


def test_what_pascal_voc_calls_difficult_does_not_count(tmp_path):
    page = report(on_voc(tmp_path, FOUND, difficult=[(1, "cat"), (2, "cat"), (2, "cow")]))
    assert page.table("class") == [
        ["cat", "\N{EN DASH}", "0", "0", "0"],
        ["dog", "1.000", "2", "0", "1"],
        ["cow", "1.000", "1", "0", "0"],
    ]
    assert "the annotations have no object of cat" in "".join(page.texts)


def test_run_metrics_and_curves(tmp_path):
    page = report(detection(tmp_path / "run", ("cat", "dog", "cow"), FOUND), "--images", 0)
    assert page.table("metric") == [["coco/bbox_mAP", "0.250", "0.500", "1"]]
    notes = [text for text in page.texts if "what it rests on" in text]
    assert notes == ["coco/bbox_mAP 0.250, what it rests on: of the last."]
    facts = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
    assert facts["Started"] == "2026-01-01 10:00" and facts["Ran for"] == "1:30:05"
    assert facts["PyTorch"] == "2.13.0" and facts["Seed"] == "7"
    assert "RetinaNet" in "".join(page.texts)  # the config
    curves = page.pictures("image/svg+xml")
    assert len(curves) == 4  # lr, loss, the metric and the matrix
    assert all(ET.fromstring(curve).tag.endswith("svg") for curve in curves)
    assert not page.pictures("image/jpeg")


def test_pictures_show_the_predictions(tmp_path):
    run = detection(tmp_path / "run", ("cat", "dog", "cow"), FOUND, ["bbox", "segm"])
    page = report(run)
    assert page.table("class")[0][1:7] == [f"{51 / 101:.3f}"] * 6  # boxes and masks
    decoded = [
        cv2.imdecode(np.frombuffer(p, np.uint8), cv2.IMREAD_COLOR)
        for p in page.pictures("image/jpeg")
    ]
    assert {image.shape for image in decoded} == {(640, 640, 3)}
    truth, found = decoded[:2]  # of the second image
    weak = np.s_[420:500, 100:180]  # inside class 2's object, in blue (BGR)
    assert truth[weak][..., 0].mean() > truth[weak][..., 2].mean() + 30
    assert abs(found[weak].astype(int) - 128).max() < 12  # its score is too low to be shown


def test_nothing_detected(tmp_path):
    page = report(detection(tmp_path / "run", ("cat", "dog", "cow"), ([], [])))
    assert [row[1] for row in page.table("class")] == ["0.000"] * 3
    assert [row[1] for row in page.table("true")] == ["(nothing)"] * 3
    assert "What they rest on: nothing was found, of 6 objects." in page.texts


def segmentation(path, classes):
    """A segmentor's run: one image is all right, in the other class 1 is half taken for class 2."""
    run = work_dir(path, SEGMENTOR, classes, {"mIoU": 50.0})
    for folder in (run / "data" / "maps", run / "labels"):
        folder.mkdir()
    true = np.ones((SIDE, SIDE), np.uint8)  # class 0; in the files 0 is unlabelled
    true[:, SIDE // 2 :] = 2
    true[:8] = 0
    wrong = true.copy()
    wrong[SIDE // 2 :, SIDE // 2 :] = 3
    for name, found in (("good", true), ("bad", wrong)):
        blank(run / "data" / "images" / f"{name}.png")
        cv2.imwrite(str(run / "data" / "maps" / f"{name}.png"), true)
        cv2.imwrite(str(run / "labels" / f"{name}.png"), np.where(found == 0, 1, found))
    return run


def test_segmentation_counts_what_was_planted(tmp_path):
    page = report(segmentation(tmp_path / "run", ("sky", HOSTILE, "road")))
    each = 2 * (SIDE - 8) * SIDE // 2  # labelled pixels of class 0, and of class 1
    lost = SIDE * SIDE // 4
    share = 100 * (each - lost) / each
    assert page.table("class") == [
        ["sky", "100.00", "100.00", "50.00"],
        [HOSTILE, f"{share:.2f}", f"{share:.2f}", "50.00"],
        ["road", "0.000", "\N{EN DASH}", "0.000"],
    ]
    assert page.table("true") == [[HOSTILE, "road", str(lost), f"{100 - share:.1f}%"]]
    text = "".join(page.texts)
    bad = 100 * ((each / 2 - lost) / (each / 2))
    assert "What they rest on: road predicted, but not in the label maps: counts as 0." in text
    assert f"bad.png: {(100 + bad) / 3:.2f}. IoU: {HOSTILE} {bad:.0f}%, sky 100%; " in text
    assert "not there: road" in text and "good.png: 100.00" in text
    assert re.search(rf"mIoU\s+{(100 + share) / 3:.2f}", text)
    assert "rgb(0, 200, 0)" in (tmp_path / "run" / "report.html").read_text()
    found = cv2.imdecode(np.frombuffer(page.pictures("image/jpeg")[1], np.uint8), cv2.IMREAD_COLOR)
    blue, green, red = found[500, 500].astype(int)  # taken for class 2
    assert blue > green + 80 and blue > red + 80


@pytest.mark.parametrize("make", [detection, segmentation])
def test_the_page_is_whole_by_itself(tmp_path, make):
    classes = (HOSTILE, MATH, "dog")
    run = make(tmp_path / HOSTILE.partition("/")[0], classes, *[FOUND] * (make is detection))
    page = report(run)
    assert all(source.startswith("data:") for source in page.sources)
    assert not {"link", "iframe", "object", "embed", "base", "form", "a"} & set(page.tags)
    assert not re.search(r"@import|url\((?!data:)", page.styles)
    assert page.tags.count("script") == 1
    assert len(page.lazy) >= 7 and set(page.lazy) == {"lazy"}
    assert HOSTILE in "".join(page.texts)


def test_without_predictions_the_page_says_how_to_make_them(tmp_path, monkeypatch):
    run = detection(tmp_path / "run", ("cat", "dog", "cow"), FOUND)
    (run / "predictions.pkl").unlink()
    logged = []
    monkeypatch.setattr("pvt_mm.reporting.report.log", logged.append)
    page = report(run)
    command = (
        f"python tools/test.py {run}/mine.py {run}/epoch_2.pth --work-dir {run} "
        f"--out {run}/predictions.pkl"
    )
    assert command in "".join(page.texts)
    assert [line.endswith(command) for line in logged] == [True]
    assert len(page.pictures("image/svg+xml")) == 3 and "script" not in page.tags


def test_a_run_without_config_and_log(tmp_path):
    run = work_dir(tmp_path / "run", SEGMENTOR, ("a", "b", "c"), {"mIoU": 50.0})
    for file in (*run.glob("*/*.log"), *run.glob("*/vis_data/config.py"), run / "mine.py"):
        file.unlink()
    page = report(run)
    assert "no config" in "".join(page.texts)
    assert page.table("metric")


class Evil:
    """A pickle of it would run a command."""

    def __reduce__(self):
        return print, ("executed",)


def spoil(run, what):
    if what == "missing":
        return ["--predictions", run / "absent.pkl"]
    if what == "evil":
        (run / "predictions.pkl").write_bytes(pickle.dumps([Evil()], protocol=2))
    if what == "text":
        (run / "predictions.pkl").write_text("no pickle")
    if what == "shape":
        dump([{"img_id": 1}], run / "predictions.pkl")
    if what == "scalars":
        shutil.rmtree(run / "20260101_100000")
    if what == "out":
        return ["--out", run / "data"]
    if what == "images":
        return ["--images", -1]
    if what == "data":
        (run / "data" / "truth.json").unlink()
    if what in ("foreign", "part", "classes"):
        samples = pickle.loads((run / "predictions.pkl").read_bytes())
        if what == "foreign":
            samples[0]["img_path"] = "other.png"
        if what == "classes":
            samples[0]["pred_instances"]["labels"][0] = 7
        dump(samples[: 1 if what == "part" else None], run / "predictions.pkl")
    return []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "absent.pkl: no such file"),
        ("evil", "it asks for builtins.print, which predictions never do; nothing of it was"),
        ("text", "no pickle of predictions"),
        ("shape", "expected a list with the boxes, scores and labels"),
        ("scalars", "no */vis_data/scalars.json in it"),
        ("out", "data is a folder; name the page's file"),
        ("images", "--images -1: expected 0 or more"),
        ("data", "truth.json"),
        ("foreign", "not of this run's test set, it lacks 1.png (id 1)"),
        ("part", "not of this run's test set, it lacks 2.png (id 2)"),
        ("classes", "class 7 in "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, capfd, what, message):
    run = detection(tmp_path / "run", ("cat", "dog", "cow"), FOUND)
    assert main([str(run), *map(str, spoil(run, what))]) == 2
    streams = capfd.readouterr()
    lines = [line for line in streams.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "executed" not in streams.out and not (run / "report.html").exists()


def test_a_missing_library_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "itables", None)
    assert main([str(tmp_path)]) == 2
    assert "itables is not installed: python -m pip install itables" in capsys.readouterr().err


def test_what_is_wrong_with_label_maps(tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 2
    assert "absent not found" in capsys.readouterr().err
    run = segmentation(tmp_path / "run", ("a", "b", "c"))
    (tmp_path / "empty").mkdir()
    assert main([str(run), "--predictions", str(tmp_path / "empty")]) == 2
    assert "no PNG label maps" in capsys.readouterr().err
    cv2.imwrite(str(run / "labels" / "bad.png"), np.ones((9, 9), np.uint8))
    assert main([str(run)]) == 2
    assert "bad.png is no label map of 64x64 pixels" in capsys.readouterr().err
    (run / "labels" / "bad.png").rename(run / "labels" / "other.png")
    assert main([str(run)]) == 2
    assert "it lacks bad;" in capsys.readouterr().err


def test_many_classes_are_cut_to_the_most_confused_ones():
    counts = 10 * np.eye(151, dtype=int)
    counts[7, 9] = 5
    counts[140, 3] = 4
    counts[2, 150] = 3
    whole = Confusion(tuple(map(str, range(150))) + ("nothing",), counts, "objects", True)
    cut = most_confused(whole, limit=5)
    assert cut.labels == ("2", "3", "7", "9", "140", "145 others", "nothing")
    assert cut.counts.sum() == counts.sum()
    assert cut.counts[2, 3] == 5 and cut.counts[4, 1] == 4 and cut.counts[0, 6] == 3
    assert cut.counts[5, 5] == 1450
    assert most_confused(cut, limit=6) is cut
    pairs = worst_pairs(whole, 2)
    assert [pair[:3] for pair in pairs] == [("7", "9", 5), ("140", "3", 4)]
    assert [pair[3] for pair in pairs] == pytest.approx([5 / 15, 4 / 14])


@pytest.mark.parametrize("size", [5, 26, 150])
def test_the_matrix_is_legible(size):
    counts = np.random.default_rng(0).integers(0, 9, (size, size))
    names = tuple(f"a very long name of class {index}" for index in range(size))
    shown = most_confused(Confusion(names, counts, "pixels"))
    figure = plot_confusion(shown)
    figure.draw_without_rendering()
    panel = figure.axes[0]
    boxes = [label.get_window_extent() for label in panel.get_yticklabels()]
    assert len(boxes) == min(size, 25)
    assert all(box.x0 >= 0 for box in boxes)  # nothing is cut off
    ordered = sorted(boxes, key=lambda box: box.y0)
    pairs = zip(ordered, ordered[1:], strict=False)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairs)  # none covers another
    first = [text for text in panel.texts if text.get_position()[1] == 0]
    shares = 100 * shown.counts[0] / shown.counts[0].sum()
    assert [text.get_text() for text in first] == [f"{s:.0f}" for s in shares if s >= 0.5]


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Runs after the page's own script: sorts by the second column, twice, and notes what it sees.
PROBE = """<script type="module">
const rows = () => [...document.querySelectorAll("#classes tbody tr")];
const names = () => rows().map(row => row.cells[0].innerText);
const seen = { start: names() };
const heading = document.querySelectorAll("#classes thead th")[1];
for (const time of ["once", "twice"]) {
  heading.click();
  await new Promise(done => setTimeout(done, 500));  // of the browser's virtual time
  seen[time] = names();
}
const loaded = performance.getEntriesByType("resource").map(resource => resource.name);
seen.loaded = loaded.filter(name => !name.startsWith("data:"));
seen.width = [document.documentElement.scrollWidth, window.innerWidth];
document.body.innerHTML = "";
document.body.append(JSON.stringify(seen));
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(tmp_path, width):
    run = detection(tmp_path / "run", ("cat", "dog", "cow"), (FOUND[0], [(2, 2, 0.8)]))
    report(run)
    page = tmp_path / "probe.html"
    page.write_text((run / "report.html").read_text().replace("</body>", PROBE))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]
    command += ["--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(re.search(r"<body[^>]*>\s*({.*})", dom)[1])
    assert seen["start"] == ["cat", "dog", "cow"]
    orders = [seen["once"], seen["twice"]]
    assert sorted(order[-1] == "cow" for order in orders) == [False, True]
    assert sorted(order[0] == "cow" for order in orders) == [False, True]
    assert seen["loaded"] == []
    assert seen["width"][0] <= seen["width"][1]
