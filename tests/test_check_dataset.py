"""Every kind of bad data either works or is named, with its file and id; sound data is not."""

import importlib.util
import json
import math
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bad_data import (
    CLASSES,
    ENTRY_CASES,
    EVALUATOR_CASES,
    FILE_CASES,
    IMAGE_CASES,
    LOAD,
    MASK_CASES,
    SEG_CASES,
    SEG_CLASSES,
    SEG_WHOLE_CASES,
    WHOLE_CASES,
    Case,
    coco_content,
    coco_place,
    seg_place,
    turned,
    with_evaluator,
    write_images,
)
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from pvt_mm.data.check_dataset import check_dataset, main
from pvt_mm.data.checks import ERROR, KINDS, WARNING, Findings, check_coco
from pvt_mm.data.data_checks import check_data
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import UserError

ROOT = Path(__file__).parents[1]
FUZZ = ROOT / "tests" / "fuzz" / "annotations.py"
OF_A_SMALL_SET = ("class-unseen", "label-ignored", "targets-ignored")
COCO_CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("image", IMAGE_CASES),
        ("file", FILE_CASES),
        ("entry", ENTRY_CASES),
        ("mask", MASK_CASES),
        ("whole", WHOLE_CASES),
    )
    for name, case in cases.items()
}


def findings_of(config, case, **options):
    split = "val" if case.evaluation else "train"
    (report,) = check_dataset(config, splits=[split], workers=0, **options)
    return [finding for *_, kept in report.findings.groups() for finding in kept]


def names_it(finding, case):
    """Whether a finding says whose fault it is."""
    ids = (Path(finding.file).name, finding.image_id, finding.annotation_id)
    return {
        "annotation": ids == ("a.json", 2, 2),
        "entry": ids[0] == "a.json" and (ids[1] == 2 or ids[2] == 2),
        "image entry": ids == ("a.json", 2, None),
        "image": ids[0] == "2.jpg",
        "label": ids[0] == "2.png",
        "file": ids[0] == "a.json",
        "set": ids[0] == "img",
        "labels": ids[0] == "labels",
        "": ids[0] == "a.json" and ids[2] == 2,
    }[case.at]


def load_all(config, split):
    """Load all samples as mm does; returns how many, and whether all boxes are finite."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
    samples = [dataset[index] for index in range(len(dataset))]
    for sample in samples:
        truth = sample["data_samples"]
        assert "gt_instances" not in truth or truth.gt_instances.bboxes.tensor.isfinite().all()
    return len(samples)


def check(case, config):
    found = findings_of(config, case)
    if case.kind == "image-entry":  # then there is no image for its annotation
        found = [finding for finding in found if finding.kind != "unknown-image"]
    # Of three images, most are of one class, and a bad one is a third.
    found = [f for f in found if f.kind == case.kind or f.kind not in OF_A_SMALL_SET]
    if case.kind is None:
        assert found == []
    else:
        assert [finding.kind for finding in found] == [case.kind]
        assert case.named in found[0].found
        assert names_it(found[0], case), found[0]
    # What is no error loads; most errors do not, and some kill the process.
    if not any(finding.level == ERROR for finding in found):
        assert load_all(config, "val" if case.evaluation else "train") >= 2


@pytest.mark.parametrize("case", COCO_CASES.values(), ids=COCO_CASES)
def test_coco(tmp_path, case):
    check(case, coco_place(tmp_path, case))


SEG_CASES |= {f"whole: {name}": case for name, case in SEG_WHOLE_CASES.items()}


@pytest.mark.parametrize("case", SEG_CASES.values(), ids=SEG_CASES)
def test_segmentation(tmp_path, case):
    check(case, seg_place(tmp_path, case))


def test_the_cases_are_complete():
    cases = [*COCO_CASES.values(), *SEG_CASES.values()]
    assert len(cases) >= 60
    untested = set(KINDS) - {case.kind for case in cases}
    # The first takes long to make; the others have tests of their own.
    own = {f"evaluator-{name}" for name in ("classwise", "file", "labels", "more", "names")}
    own |= {"model-classes", "pipeline", "targets-shifted"}
    own |= {"batch-sizes", "class-weight", "image-channels", "image-small"}
    own |= {"image-queries", "targets-ignored-class"}
    own |= {"split-class", "split-shared", "targets-not-ignored", "targets-weighted"}
    assert untested == {"image-large"} | own


def test_every_kind_is_in_the_documentation():
    page = (ROOT / "docs" / "data.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning) \|", page, re.MULTILINE))
    assert rows == {name: kind.level for name, kind in KINDS.items()}


VOC = """
default_scope = "mmdet"
model = dict(type="RetinaNet")
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(
    type="VOCDataset", data_root={root!r}, ann_file="test.txt", test_mode=True,
    data_prefix=dict(sub_data_root={folder!r}), metainfo=dict(classes={classes!r}),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]))
val_evaluator = dict(type="VOCMetric")
"""
BOX = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>39</xmax><ymax>29</ymax></bndbox>"


@pytest.mark.parametrize(
    ("folder", "classes", "said"),
    [
        ("VOC2007", ("bolt", "nut"), "warning evaluator-names.*prints 'aeroplane' for 'bolt'"),
        ("VOC2012", tuple(map(str, range(21))), "error evaluator-more.*has 20 names, for 21"),
        ("VOC2012", ("aeroplane", "bicycle"), ""),
        ("voc", ("bolt", "nut"), ""),
    ],
)
def test_voc_metric_names_classes_by_the_folder(tmp_path, capsys, folder, classes, said):
    (tmp_path / folder / "Annotations").mkdir(parents=True)
    write_images(tmp_path / folder / "JPEGImages")
    (image, *_) = sorted((tmp_path / folder / "JPEGImages").glob("*.jpg"))
    (tmp_path / "test.txt").write_text(f"{image.stem}\n")
    objects = "".join(f"<object><name>{name}</name>{BOX}</object>" for name in classes)
    size = "<size><width>64</width><height>48</height></size>"
    annotation = tmp_path / folder / "Annotations" / f"{image.stem}.xml"
    annotation.write_text(f"<annotation>{size}{objects}</annotation>")
    text = VOC.format(root=f"{tmp_path}/", folder=f"{folder}/", classes=classes)
    (tmp_path / "own.py").write_text(text)
    code = main([str(tmp_path / "own.py"), "--split", "val", "--workers", "0"])
    printed = capsys.readouterr().out
    assert code == said.startswith("error"), printed
    assert re.search(said or "0 errors, 0 warnings", printed, re.DOTALL), printed


@pytest.fixture
def shifted(tmp_path):
    """Label maps that hold the background as 0, read with reduce_zero_label as the demo's are."""
    case = Case(lambda root, content: None)
    config = seg_place(tmp_path, case)
    names = ("background", "bolt", "nut")
    text = config.read_text().replace("reduce_zero_label=False", "reduce_zero_label=True")
    config.write_text(text.replace(str(SEG_CLASSES), str(names)))
    return config


def test_labels_shifted_by_one_are_named_with_what_each_becomes(shifted):
    (found,) = [f for f in findings_of(shifted, Case(None)) if f.kind not in OF_A_SMALL_SET]
    assert (found.kind, found.level) == ("targets-shifted", ERROR)
    assert "hold 0 to 2" in found.found
    assert "0 is ignored, 1 is 'background', 2 is 'bolt', 3 is 'nut'" in found.found
    evaluated = findings_of(shifted, Case(None, evaluation=True))
    assert ("targets-shifted", WARNING) in [(f.kind, f.level) for f in evaluated]


def test_the_advice_for_shifted_labels_mends_them(shifted):
    off = {f"{split}_dataloader.dataset.reduce_zero_label": False for split in ("train", "val")}
    reports = check_dataset(shifted, workers=0, cfg_options=off)
    found = [kind for report in reports for _, kind, *_ in report.findings.groups()]
    assert found == ["split-shared"]  # here one data set is both


def test_training_refuses_what_the_check_refuses(shifted):
    with pytest.raises(UserError, match="1 is 'background'.*reduce_zero_label=False"):
        check_data(Config.fromfile(shifted), ("train",))


def test_a_pipeline_that_no_sample_passes(tmp_path):
    """The data set says one thing of 0, the transform another."""
    config = seg_place(tmp_path, Case(lambda root, content: None))
    option = {"train_dataloader.dataset.pipeline.1.reduce_zero_label": True}
    (report,) = check_dataset(config, splits=["train"], workers=0, cfg_options=option)
    ((level, kind, _, (found,)),) = report.findings.groups()
    assert (level, kind) == (ERROR, "pipeline")
    assert "none of 3 samples gets through: LoadAnnotations: AssertionError" in found.found


@pytest.mark.parametrize(("change", "named"), EVALUATOR_CASES.values(), ids=EVALUATOR_CASES)
def test_an_evaluator_of_another_file(tmp_path, change, named):
    """By the check and by a test's start; what is scored is the data set's own, or it is named."""
    config = with_evaluator(tmp_path, change)
    (report,) = check_dataset(config, splits=["val"], workers=0)
    found = [finding for *_, kept in report.findings.groups() for finding in kept]
    if named is None:
        assert found == []
        check_data(Config.fromfile(config), ("val",))
        return
    assert [finding.kind for finding in found] == ["evaluator-file"]
    assert named.format(root=tmp_path) in found[0].found
    with pytest.raises(UserError, match="val_evaluator: .*truth.json.*; set the evaluator's"):
        check_data(Config.fromfile(config), ("val",))


@pytest.mark.parametrize(("ids", "sound"), [((1, 2, 3), False), ((11, 12, 13), True)])
def test_two_data_sets_and_one_evaluator(tmp_path, ids, sound):
    """They may be scored together if each image has an id of its own."""
    more = coco_content()
    for number, entry in zip(ids, more["images"], strict=True):
        entry["id"] = number
    for number, entry in zip(ids, more["annotations"], strict=True):
        entry.update(id=number + 20, image_id=number)
    config = with_evaluator(
        tmp_path, lambda c: [c[key].extend(more[key]) for key in ("images", "annotations")]
    )
    (tmp_path / "b.json").write_text(json.dumps(more))
    config.write_text(
        config.read_text()
        + "sets = [dict(**dataset, test_mode=True), dict({**dataset, 'ann_file': 'b.json'}, "
        "test_mode=True)]\n"
        "val_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=sets))\n"
    )
    reports = check_dataset(config, splits=["val"], workers=0)
    found = [f.found for report in reports for *_, kept in report.findings.groups() for f in kept]
    assert bool(found) != sound, found
    assert sound or "image id 1 is in more than one" in found[0]


@pytest.mark.parametrize("head", ["bbox_head", "roi_head.mask_head"])
def test_heads_of_another_number_of_classes(tmp_path, head):
    config = coco_place(tmp_path, Case(lambda root, content: None))
    node = "dict(num_classes=80)"
    for name in reversed(head.split(".")):
        node = f"dict({name}={node})"
    config.write_text(config.read_text().replace("model = dict()", f"model = {node}"))
    reports = check_dataset(config, splits=["val"], workers=0)
    ((*_, (found,)),) = reports[0].findings.groups()
    assert found.kind == "model-classes"
    assert f"model.{head}.num_classes is 80, but val_dataloader.dataset has 2" in found.found


def test_random_numbers_are_left_as_they_were(tmp_path):
    config = seg_place(tmp_path, Case(lambda root, content: None))
    np.random.seed(3)
    check_data(Config.fromfile(config), ("train",))
    assert np.random.rand() == np.random.RandomState(3).rand()


def test_a_turned_image_beside_its_label_map(tmp_path):
    config = seg_place(tmp_path, Case(turned(6)))
    found = {finding.kind: finding for finding in findings_of(config, Case(turned(6)))}
    assert set(found) == {"label-size", "image-exif"}
    assert found["label-size"].found == "64 x 48, image 48 x 64"


def test_the_advice_for_turned_images_mends_them(tmp_path):
    case = IMAGE_CASES["EXIF 6"]
    flag = {"pipeline.0.color_type": "color_ignore_orientation"}
    config = coco_place(tmp_path, case)
    text = config.read_text().replace(LOAD, LOAD[:-1] + f", color_type='{flag.popitem()[1]}')")
    config.write_text(text)
    assert [finding.kind for finding in findings_of(config, case)] == ["class-unseen"]


@pytest.fixture
def spoilt(tmp_path):
    """A data set with two errors and a warning: in the image's file, its box, and its file."""

    def spoil(root, whole):
        IMAGE_CASES["truncated JPEG"].spoil(root, whole)
        ENTRY_CASES["NaN in a box"].spoil(root, whole)
        whole["annotations"][2]["category_id"] = 2
        whole["annotations"].append(dict(whole["annotations"][0], id=9, image_id=99))

    return coco_place(tmp_path, Case(spoil))


def test_the_tool_names_all_by_group(spoilt, capsys, tmp_path):
    argv = [str(spoilt), "--split", "train", "--json", str(tmp_path / "out.json")]
    assert main([*argv, "--workers", "2"]) == 1
    printed = capsys.readouterr().out
    for line in (
        "3 images (0 without annotations), 4 annotations (0 crowds), 2 categories",
        "error box (1): expected bbox [x, y, width, height], four finite numbers",
        f"annotation 2 of image 2 ({tmp_path}/a.json): bbox is [nan, 4, 5, 5]; image 2.jpg",
        f"image 2 ({tmp_path}/img/2.jpg): cannot be decoded",
        "warning unknown-image (1)",
        "treated as: the annotation is not used",
        "1 data sets: 2 errors, 1 warnings",
    ):
        assert line in printed, printed
    (report,) = json.loads((tmp_path / "out.json").read_text())
    assert report["data sets"] == ["train_dataloader.dataset"]
    kinds = {group["kind"]: group for group in report["findings"]}
    assert list(kinds) == ["box", "image-broken", "unknown-image"]
    assert kinds["image-broken"]["findings"][0]["image_id"] == 2
    assert kinds["box"]["findings"][0]["annotation_id"] == 2


def test_a_limit_leaves_images_unread(spoilt, capsys):
    assert main([str(spoilt), "--split", "val", "--limit", "1", "--workers", "0"]) == 1
    printed = capsys.readouterr().out
    assert "1 of them read" in printed
    assert "error box" in printed
    assert "image-broken" not in printed


def test_a_shared_data_set_is_read_once(tmp_path):
    config = coco_place(tmp_path, IMAGE_CASES["sound"])
    config.write_text(config.read_text() + "test_dataloader = val_dataloader\n")
    reports = check_dataset(config, workers=0)
    assert [report.names for report in reports] == [
        ["train_dataloader.dataset"],
        ["val_dataloader.dataset", "test_dataloader.dataset"],
    ]


@pytest.mark.parametrize(
    ("spoil", "argv", "named"),
    [
        (lambda root: (root / "a.json").unlink(), [], "a.json not found"),
        (
            lambda root: (root / "config.py").write_text("model = dict()"),
            [],
            "no data set of train",
        ),
        (lambda root: None, ["--json", "no/such/folder.json"], "no/such/folder.json"),
    ],
    ids=["annotation file", "no data set", "report"],
)
def test_mistakes_of_the_call(tmp_path, capsys, spoil, argv, named):
    config = coco_place(tmp_path, IMAGE_CASES["sound"])
    spoil(tmp_path)
    assert main([str(config), "--workers", "0", *argv]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_classification_folders_are_checked(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / "train" / name)
    (tmp_path / "train" / "b" / "2.jpg").write_bytes(b"")
    (tmp_path / "config.py").write_text(
        "custom_imports = dict(imports=['pvt_mm'])\nmodel = dict()\n"
        f"data = dict(type='pvt_mm.ImageFolder', data_root='{tmp_path}', "
        "data_prefix=dict(img_path='train'), pipeline=[dict(type='LoadImageFromFile')])\n"
        "train_dataloader = dict(dataset=data)\n"
    )
    (report,) = check_dataset(tmp_path / "config.py", workers=0)
    assert report.facts == "6 images"
    (finding,) = [f for *_, kept in report.findings.groups() for f in kept]
    assert (finding.kind, Path(finding.file).parts[-2:]) == ("image-broken", ("b", "2.jpg"))


@pytest.mark.slow
def test_demo_data_are_sound_and_the_script_runs(tmp_path, monkeypatch, capsys):
    make_demo_data(tmp_path, DemoSpec(train=20, val=10, size=64))
    sound = "2 data sets: 0 errors, 0 warnings"
    detector, segmentor = (
        ROOT / "configs" / f"{name}.py"
        for name in ("mask_rcnn_pvt_v2_b0_fpn_demo", "fpn_pvt_v2_b0_demo")
    )
    command = [sys.executable, ROOT / "tools/check_dataset.py", detector]
    env = {"DEMO_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sound in done.stdout
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path))
    assert main([str(segmentor), "--workers", "0"]) == 0
    assert sound in capsys.readouterr().out


def test_many_faults_take_little_memory(tmp_path):
    content = coco_content()
    content["annotations"] = [
        dict(id=i, image_id=1, category_id=1, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
        for i in range(1, 3001)
    ]
    (tmp_path / "a.json").write_text(json.dumps(content))
    findings = Findings()
    check_coco(tmp_path / "a.json", findings, CLASSES[:1], masks=True)
    ((level, kind, count, kept),) = findings.groups()
    assert (level, kind, count, len(kept)) == (ERROR, "mask-missing", 3000, 1000)


def test_large_annotation_files_need_not_stand_in_memory(tmp_path):
    """The text twice, for a moment; objects of the same content would take much more."""
    ring = [round(30 + 20 * f(k / 40), 2) for k in range(250) for f in (math.cos, math.sin)]
    entry = dict(image_id=1, category_id=1, bbox=[9, 9, 40, 30], area=400, iscrowd=0)
    content = coco_content()
    content["annotations"] = [dict(entry, id=i, segmentation=[ring]) for i in range(1, 1001)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    tracemalloc.start()
    findings = Findings()
    assert check_coco(path, findings, CLASSES[:1], masks=True).annotations == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not findings.counts
    assert peak < 2.5 * path.stat().st_size


def test_random_annotation_files(monkeypatch):
    """A short run of the fuzz harness; the same examples every time."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "fuzz"))
    spec = importlib.util.spec_from_file_location("fuzz_annotations", FUZZ)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    number, found = fuzz._runner.run_round(fuzz.EXAMPLES, fuzz.check, 0, set(), examples=100)
    assert (number, found) == (100, {})
