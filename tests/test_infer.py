"""tools/infer.py: what it writes, for all that a user may name, and what trouble leaves."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import blob_config, scene
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pvt_mm import Predictor
from pvt_mm.checkpoints.download import sha256_of
from pvt_mm.inference.inputs import find_inputs
from pvt_mm.inference.tool import main

ROOT = Path(__file__).resolve().parents[1]
BOXES = [
    [(10, 20, 50, 60, 0), (100, 90, 150, 140, 1)],
    [],
    [(30, 30, 90, 80, 2), (200, 100, 240, 150, 2), (120, 20, 150, 60, 0)],
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the tool is run: images, a detector, a segmentor."""
    monkeypatch.chdir(tmp_path)
    blob_config(tmp_path)
    blob_config(tmp_path, segmentor=True)
    Path("images").mkdir()
    for index, boxes in enumerate(BOXES):
        cv2.imwrite(f"images/{index}.png", scene(boxes, 200, 300))
    return tmp_path


def infer(*arguments, task="mmdet", out="out"):
    """Run the tool; returns the exit code and the summary."""
    files = (f"{task}.py", f"{task}.pth")
    code = main([*files, *map(str, arguments), "--out-dir", out, "--device", "cpu"])
    return code, json.loads(Path(out, "summary.json").read_text())


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*"))


def truth():
    """The annotations of the images, made by hand, as a COCO object."""
    annotations = []
    for image, boxes in enumerate(BOXES):
        for x1, y1, x2, y2, label in boxes:
            polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image + 1,
                    category_id=label + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                    segmentation=[polygon],
                )
            )
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=image + 1, height=200, width=300) for image in range(3)],
        categories=[dict(id=label + 1) for label in range(3)],
        annotations=annotations,
    )
    coco.createIndex()
    return coco


@pytest.mark.parametrize("options", [[], ["--batch-size", "2"], ["--tile", "128"]])
def test_detections_are_those_of_the_scenes(folder, capsys, options):
    code, summary = infer("images", "--tile-overlap", "0.5", *options)
    assert code == 0
    assert names_in("out/vis") == ["0.jpg", "1.jpg", "2.jpg"]
    written = json.loads(Path("out/results.json").read_text())
    assert [image["file_name"] for image in written["images"]] == [
        f"images/{index}.png" for index in range(3)
    ]
    assert [one["name"] for one in written["categories"]] == ["blue", "green", "red"]
    ground = truth()
    found = ground.loadRes(written["annotations"])
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(ground, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    assert len(COCO("out/results.json").anns) == len(found.anns) == 5
    assert summary["detections"] == dict(blue=2, green=1, red=2)
    assert summary["images"] == 3 and summary["failed"] == [] and not summary["interrupted"]
    assert summary["checkpoint"]["sha256"] == sha256_of(Path("mmdet.pth"))
    assert summary["versions"]["torch"] and summary["device"] == "cpu"
    assert cv2.imread("out/vis/0.jpg").shape == (400, 600, 3)
    assert "5 objects" in capsys.readouterr().out


def test_images_that_the_network_cannot_take_are_left_out_by_name(folder, capsys):
    """Of 4000 x 1 pixels the pipeline's resizing leaves none; the others are predicted."""
    cv2.imwrite("images/1.png", np.zeros((1, 4000, 3), np.uint8))
    resize = "dict(type='Resize', scale=(300, 300), keep_ratio=True)"
    with open("mmdet.py", "a") as file:
        file.write(f"\ntest_dataloader['dataset']['pipeline'].insert(1, {resize})\n")
    code, summary = infer("images", "--batch-size", "3")
    assert code == 1 and summary["images"] == 2
    assert names_in("out/vis") == ["0.jpg", "2.jpg"]
    (failed,) = summary["failed"]
    assert failed["input"] == "images/1.png"
    assert "the pipeline cannot take 4000 x 1 pixels" in failed["reason"]
    assert "error: images/1.png: the pipeline cannot take" in capsys.readouterr().err


def test_label_maps(folder):
    code, summary = infer("images", "--tile", "64", task="mmseg")
    assert code == 0
    assert names_in("out/labels") == ["0.png", "1.png", "2.png"]
    total = 0
    for index, boxes in enumerate(BOXES):
        labels = cv2.imread(f"out/labels/{index}.png", cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8
        assert (labels == scene(boxes, 200, 300).argmax(axis=2)).all()
        total += (labels == 2).sum()
    assert summary["pixels"]["red"] == total == 60 * 50 + 40 * 50
    assert not Path("out/results.json").exists()


def test_what_cannot_be_read_is_skipped_and_said(folder, capsys):
    Path("images/0a.jpg").write_text("no image")
    Path("images/0b.png").write_bytes(b"")
    Path("images/0c.mp4").write_text("no video")
    half = Path("images/2.png").read_bytes()
    Path("images/3.png").write_bytes(half[: len(half) // 2])
    code, summary = infer("images", "--batch-size", "2")
    assert code == 1
    bad = [f"images/{name}" for name in ("0a.jpg", "0b.png", "0c.mp4", "3.png")]
    assert [one["input"] for one in summary["failed"]] == bad
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert all(name in line for name, line in zip(bad, errors, strict=True))
    assert summary["images"] == 3
    assert len(json.loads(Path("out/results.json").read_text())["annotations"]) == 5


def test_inputs_of_one_name_do_not_overwrite_each_other(folder):
    for name in ("a/1.png", "b/1.png", "b/1.bmp", "c/B_1.png"):
        Path(name).parent.mkdir(exist_ok=True)
        cv2.imwrite(name, scene([], 64, 64))
    code, summary = infer("a/1.png", "b/1.png", "b/1.bmp", "c", "b/1.png", task="mmseg")
    assert code == 0
    names = {path: name for name, path in summary["inputs"].items()}
    assert list(names) == ["a/1.png", "b/1.png", "b/1.bmp", "c/B_1.png"]
    assert len({name.lower() for name in names.values()}) == 4
    assert names_in("out/labels") == sorted(f"{name}.png" for name in names.values())


def make_video(path, count, size=(96, 128)):
    """A square that goes to the right by 4 pixels a frame."""
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 12, size[::-1])
    for frame in range(count):
        writer.write(scene([(4 * frame, 20, 4 * frame + 40, 60, 2)], *size))
    writer.release()


@pytest.mark.parametrize("batch", ["1", "4"])
def test_videos_are_predicted_frame_by_frame(folder, batch):
    make_video("move.avi", 10)
    code, summary = infer("move.avi", "images/0.png", "--batch-size", batch)
    assert code == 0 and summary["images"] == 11
    written = json.loads(Path("out/results.json").read_text())
    frames = [image["frame"] for image in written["images"] if "frame" in image]
    assert frames == list(range(10))
    boxes = {one["image_id"]: one["bbox"] for one in written["annotations"]}
    for frame in range(10):  # the codec blurs the edges
        assert boxes[frame + 1] == pytest.approx([4 * frame, 20, 40, 40], abs=3)
    assert names_in("out/vis") == ["0.jpg", "move.mp4"]
    capture = cv2.VideoCapture("out/vis/move.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    drawn = 0
    while capture.read()[0]:
        drawn += 1
    assert drawn == 10
    code, _ = infer("move.avi", "--no-vis", task="mmseg", out="labels")
    assert code == 0
    assert names_in("labels/labels") == [f"move/{frame:06d}.png" for frame in range(10)]
    assert not Path("labels/vis").exists()


def test_a_list_on_standard_input(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("images/2.png\n\nimages/none.png\nimages/0.png\n"))
    code, summary = infer("-")
    assert code == 1
    assert list(summary["inputs"].values()) == ["images/2.png", "images/none.png", "images/0.png"]
    assert summary["failed"] == [
        {"input": "images/none.png", "reason": "No such file or directory"}
    ]
    assert summary["images"] == 2


def test_urls(folder):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory="images"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        code, summary = infer(f"{base}/0.png?size=big", f"{base}/none.png")
    finally:
        server.shutdown()
        server.server_close()
    assert code == 1
    assert summary["detections"] == dict(blue=1, green=1, red=0)
    assert "404" in summary["failed"][0]["reason"]
    assert names_in("out/vis") == ["0.jpg"]


def test_patterns_and_folders(folder):
    Path("images/below").mkdir()
    cv2.imwrite("images/below/4.JPG", scene([], 64, 64))
    Path("images/note.txt").write_text("no image")
    every = [f"images/{name}" for name in ("0.png", "1.png", "2.png", "below/4.JPG")]

    def found(*arguments):
        return [one.path for one in find_inputs(arguments, io.StringIO())]

    assert found("images") == every[:3]
    assert found("images/**") == every
    assert found("images/[12].png", "images/0.png", "images") == [every[1], every[2], every[0]]
    Path("images/[1].png").write_bytes(Path("images/1.png").read_bytes())
    assert found("images/[1].png") == ["images/[1].png"]


def test_nothing_is_overwritten_unless_asked_for(folder, capsys):
    assert infer("images/0.png")[0] == 0
    Path("out/note.txt").write_text("mine")
    before = Path("out/results.json").read_bytes()
    assert infer("images/2.png")[0] == 2
    assert "out is not empty; --overwrite" in capsys.readouterr().err
    assert Path("out/results.json").read_bytes() == before
    code, summary = infer("images/2.png", "--overwrite")
    assert code == 0 and summary["detections"]["red"] == 2
    assert names_in("out") == ["note.txt", "results.json", "summary.json", "vis/0.jpg", "vis/2.jpg"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_all_that_is_done_is_whole(folder, monkeypatch, capsys, number):
    make_video("move.avi", 10)
    predict, calls = Predictor.predict, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 5:
            os.kill(os.getpid(), number)
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    before = signal.getsignal(number)
    code, summary = infer("images", "move.avi")
    assert code == 128 + number
    assert signal.getsignal(number) is before
    assert summary["interrupted"] and summary["images"] == 5
    coco = COCO("out/results.json")
    assert len(coco.imgs) == 5 and len(coco.anns) == 5 + 2
    assert names_in("out/vis") == ["0.jpg", "1.jpg", "2.jpg", "move.mp4"]
    capture = cv2.VideoCapture("out/vis/move.mp4")
    assert capture.read()[0] and capture.read()[0] and not capture.read()[0]
    assert "interrupted" in capsys.readouterr().out


def test_an_error_in_the_middle_leaves_whole_files(folder, monkeypatch):
    predict, calls = Predictor.predict, []

    def failing(self, images):
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", failing)
    with pytest.raises(ZeroDivisionError):
        infer("images")
    assert len(COCO("out/results.json").imgs) == 2
    assert names_in("out") == ["results.json", "vis/0.jpg", "vis/1.jpg"]


USAGE = {
    "missing": (["none.jpg"], "input none.jpg not found"),
    "no images": (["text"], "no file ends in .bmp .jpeg .jpg"),
    "pattern": (["text/*.png"], "no inputs in text/*.png"),
    "empty list": (["-"], "standard input names none"),
    "score": (["images", "--batch-size", "0"], "--batch-size must be at least 1"),
    "device": (["images", "--device", "cuda:77"], "--device cuda:77 cannot be used"),
    "folder": (["images", "--out-dir", "mmdet.py"], "--out-dir mmdet.py: File exists"),
    "option": (["images", "--cfg-options", "model.typ=x"], "did you mean model.type?"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_mistakes_are_one_line(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    Path("text").mkdir()
    Path("text/a.txt").write_text("no image")
    assert main(["mmdet.py", "mmdet.pth", "--out-dir", "out", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not Path("out/results.json").exists()


def test_the_tool_as_users_call_it(folder):
    command = [sys.executable, ROOT / "tools" / "infer.py", "mmdet.py", "mmdet.pth", "images"]
    done = subprocess.run(
        [*command, "--out-dir", "out", "--device", "cpu", "--tile"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("3 images, ") and line.endswith(f"results are in {folder / 'out'}")
    assert "Traceback" not in done.stderr
