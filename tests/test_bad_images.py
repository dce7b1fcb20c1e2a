"""While a training runs a bad sample is named; as many as allowed are left out and reported."""

import json
import logging

import mmengine
import pytest
import torch
from bad_data import (
    ENTRY_CASES,
    FILE_CASES,
    IMAGE_CASES,
    MASK_CASES,
    SEG_CASES,
    Case,
    coco_place,
    content,
    seg_place,
)
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

from pvt_mm.data.bad_samples import RECORD, BadSampleError
from pvt_mm.data.data_checks import check_data
from pvt_mm.data.sample_checks import check_sample
from pvt_mm.errors import UserError
from pvt_mm.training import train
from pvt_mm.training.train import run_train

SEEN = []


@MODELS.register_module(force=True)
class SeeingModel(BaseModel):
    """Notes the images of which it gets a batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, data_samples, mode="tensor"):
        if mode == "predict":
            return data_samples
        SEEN.extend(int(sample.img_path.split("/")[-1][0]) for sample in data_samples)
        return {"loss": self.layer(torch.ones(1)).sum()}


@METRICS.register_module(force=True)
class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return {"images": sum(results)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Writes a config that trains one layer on spoilt data, in the order of the files."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(train, "check_train", lambda cfg: None)
    # It asks compilers.
    monkeypatch.setattr(mmengine.runner.runner, "collect_env", dict)
    SEEN.clear()

    def write(case, make=coco_place, workers=0, epochs=1, extra=""):
        config = make(tmp_path, case)
        text = config.read_text().replace("val_dataloader", "unused")
        more = (
            f"num_workers={workers}, persistent_workers={workers > 0}, batch_size=1, "
            "sampler=dict(type='DefaultSampler', shuffle=False)"
        )
        config.write_text(
            f"{text}train_dataloader.update(dict({more}))\n"
            "model = dict(type='SeeingModel')\n"
            f"train_cfg = dict(by_epoch=True, max_epochs={epochs})\n"
            "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\n"
            "param_scheduler = []\n"
            f"work_dir = '{tmp_path}/out'\n"
            # Runs of the same second would else share a log file.
            f"experiment_name = '{tmp_path.name}'\n"
            f"{extra}\n"
        )
        return config

    return write


def record(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / RECORD).read_text().splitlines()]


COCO_FAULTS = {
    "missing": (IMAGE_CASES["missing"], "FileNotFoundError"),
    "truncated": (IMAGE_CASES["truncated JPEG"], "failed to load image"),
    "zero bytes": (IMAGE_CASES["zero bytes"], "LoadImageFromFile: error"),
    "NaN in a polygon": (MASK_CASES["NaN"], "object 0: nan in polygon"),  # crashes pycocotools
    "endless RLE": (MASK_CASES["compressed RLE that never ends"], "malformed"),  # hangs it
    "unwritten memory": (MASK_CASES["RLE too short"], "add up to 120"),  # it returns some
    "no mask": (MASK_CASES["no segmentation"], "object 0 has no segmentation"),
    "too narrow": (IMAGE_CASES["20000 x 100"], "Resize: error"),
}
SEG_FAULTS = {
    "missing": (SEG_CASES["missing"], "FileNotFoundError"),
    "truncated": (SEG_CASES["truncated"], "LoadAnnotations: OSError"),
    "class 3 of 3": (SEG_CASES["value 3 of 3 classes"], "label 3 in its label map"),
    "reduced": (SEG_CASES["zero reduced, value 4"], "label 3 in its label map"),
    "another size": (SEG_CASES["another size"], "after the pipeline"),
    "colour": (SEG_CASES["colour"], "not one channel"),
}
FAULTS = [(coco_place, *fault) for fault in COCO_FAULTS.values()]
FAULTS += [(seg_place, *fault) for fault in SEG_FAULTS.values()]
IDS = [f"coco: {name}" for name in COCO_FAULTS] + [f"seg: {name}" for name in SEG_FAULTS]


@pytest.mark.parametrize(("make", "case", "reason"), FAULTS, ids=IDS)
def test_the_first_bad_sample_ends_the_run_with_its_name(place, tmp_path, make, case, reason):
    with pytest.raises(UserError) as raised:
        run_train(place(case, make))
    message = str(raised.value)
    assert f"{tmp_path}/img/2.jpg" in message
    assert reason in message
    assert ("(image 2)" in message) == (make is coco_place)
    assert "--skip-bad-images N" in message
    assert "\n" not in message
    assert SEEN == [1]
    (entry,) = record(tmp_path)
    assert "Traceback" in entry["traceback"]


@pytest.mark.parametrize(("make", "case", "reason"), FAULTS, ids=IDS)
def test_a_bad_sample_is_left_out(place, tmp_path, make, case, reason):
    run_train(place(case, make, epochs=3), skip_bad_images=1)
    assert SEEN == [1, 3, 3] * 3  # the next one in its place, every time
    (entry,) = record(tmp_path)
    assert (entry["file"], entry["index"]) == (f"{tmp_path}/img/2.jpg", 1)
    assert reason in entry["reason"]
    log = "".join(path.read_text() for path in tmp_path.glob("out/*/*.log"))
    assert log.count("the next one takes its place") == 1
    assert "bad samples left out: 1 of at most 1" in log


def both_ends(root, whole):
    for name in ("1.jpg", "3.jpg"):
        (root / "img" / name).write_bytes(b"")


@pytest.mark.slow
def test_spawned_workers(place, tmp_path):
    spawned = "train_dataloader['multiprocessing_context'] = 'spawn'"
    run_train(place(IMAGE_CASES["missing"], workers=1, extra=spawned), skip_bad_images=1)
    assert SEEN == [1, 3, 3]
    assert len(record(tmp_path)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_counting_over_workers_and_epochs(place, tmp_path, workers):
    run_train(place(Case(both_ends), workers=workers, epochs=2), skip_bad_images=2)
    assert SEEN == [2, 2, 2] * 2
    assert sorted(entry["index"] for entry in record(tmp_path)) == [0, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_allowed_ends_the_run(place, tmp_path, capsys, workers):
    config = place(Case(both_ends), workers=workers)
    assert train.main([str(config), "--skip-bad-images", "1"]) == 2
    (line,) = [part for part in capsys.readouterr().err.splitlines() if "error: " in part]
    assert line.startswith(f"error: bad sample {tmp_path}/img/")
    assert "as many as --skip-bad-images 1 allows were left out before" in line
    assert len(record(tmp_path)) == 2


def test_wrapped_data_sets_are_guarded(place, tmp_path):
    wrapped = (
        "both = [dict(type='RepeatDataset', times=2, dataset=train_dataloader['dataset']),"
        " train_dataloader['dataset']]\n"
        "train_dataloader['dataset'] = dict(type='ConcatDataset', datasets=both)"
    )
    run_train(place(IMAGE_CASES["missing"], extra=wrapped), skip_bad_images=2)
    assert SEEN == [1, 3, 3] * 3
    assert len(record(tmp_path)) == 2  # once in either data set


def test_the_config_may_allow_it(place):
    run_train(place(IMAGE_CASES["missing"], extra="skip_bad_images = 1"))
    assert SEEN == [1, 3, 3]


@pytest.mark.parametrize("number", [-1, 1.5])
def test_the_number_is_checked(place, number):
    with pytest.raises(UserError, match="--skip-bad-images .* expected a whole number"):
        run_train(place(IMAGE_CASES["sound"]), skip_bad_images=number)


@pytest.mark.parametrize("test_mode", [True, False])  # False is what mmseg's configs say
def test_an_evaluation_leaves_nothing_out(place, tmp_path, test_mode):
    validation = (
        f"val_dataloader = dict(batch_size=1, dataset=dict(dataset, test_mode={test_mode}), "
        "sampler=dict(type='DefaultSampler', shuffle=False))\n"
        "val_evaluator = dict(type='NoMetric')\nval_cfg = dict()"
    )
    config = place(IMAGE_CASES["missing"], extra=validation)
    with pytest.raises(UserError, match="2.jpg .* an evaluation needs all images"):
        run_train(config, skip_bad_images=1)


@pytest.mark.parametrize("name", ["no images", "no annotations"])
def test_an_empty_data_set_is_named(place, tmp_path, name):
    with pytest.raises(UserError, match="no image of a.json is left"):
        run_train(place(FILE_CASES[name]))


def test_a_label_map_of_its_own_size_is_a_fault_in_training_only(tmp_path):
    config = Config.fromfile(seg_place(tmp_path, SEG_CASES["sound"]))
    config.train_dataloader.dataset.pipeline[-2:-2] = [dict(type="Resize", scale=(96, 96))]
    pipeline = config.train_dataloader.dataset.pipeline
    load = next(step for step in pipeline if step["type"] == "LoadAnnotations")
    pipeline.remove(load)
    pipeline.insert(-1, load)  # after the resizing, as mmseg's test pipelines have it
    with DATASETS.switch_scope_and_registry("mmseg") as registry:
        dataset = registry.build(config.train_dataloader.dataset)
    sample = dataset[0]
    check_sample(sample, dataset, training=False)
    with pytest.raises(ValueError, match="its label map is .* after the pipeline, the image"):
        check_sample(sample, dataset, training=True)


def test_all_samples_bad(place, tmp_path):
    def spoil(root, whole):
        both_ends(root, whole)
        (root / "img" / "2.jpg").write_bytes(b"")

    with pytest.raises(UserError, match="none of the 3 samples can be loaded"):
        run_train(place(Case(spoil)), skip_bad_images=9)


def test_a_worker_s_error_keeps_its_line():
    text = f"Caught X in worker.\nOriginal Traceback:\n  File\n{BadSampleError.__module__}."
    assert str(BadSampleError(f"{text}BadSampleError: bad sample a.jpg\n")) == "bad sample a.jpg"


REFUSED = {
    "json": (FILE_CASES["truncated"], ["a.json: is not valid JSON"]),
    "box": (ENTRY_CASES["NaN in a box"], ["annotation 2 of image 2 (", "bbox is [nan, 4, 5, 5]"]),
    "id twice": (ENTRY_CASES["annotation id twice"], ["annotation 1", "occurred before"]),
    "order": (FILE_CASES["categories in another order"], ["'disc' (id 1) gets label 1"]),
    "polygon": (MASK_CASES["a billion"], ["annotation 2 of image 2", "-1000000000.0"]),
    "image": (IMAGE_CASES["truncated JPEG"], ["image 2 (", "img/2.jpg): cannot be decoded"]),
    "size": (IMAGE_CASES["sides swapped"], ["img/2.jpg): 64 x 48, but 48 x 64"]),
}


@pytest.mark.parametrize(("case", "named"), REFUSED.values(), ids=REFUSED)
def test_the_pre_flight_refuses(tmp_path, case, named):
    cfg = Config.fromfile(coco_place(tmp_path, case))
    with pytest.raises(UserError, match="tools/check_dataset.py") as raised:
        check_data(cfg, ("train",))
    message = str(raised.value)
    assert message.startswith("train_dataloader.dataset: ")
    assert all(part in message for part in named), message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["value 3 of 3 classes", "colour", "16 bits, value 300"])
def test_the_pre_flight_reads_label_maps(tmp_path, name):
    cfg = Config.fromfile(seg_place(tmp_path, SEG_CASES[name]))
    with pytest.raises(UserError, match="labels/2.png"):
        check_data(cfg, ("train",))


def test_the_pre_flight_spares_what_may_be_left_out(tmp_path):
    def spoil(root, whole):
        IMAGE_CASES["truncated JPEG"].spoil(root, whole)
        MASK_CASES["no segmentation"].spoil(root, whole)

    cfg = Config.fromfile(coco_place(tmp_path, Case(spoil)))
    cfg.skip_bad_images = 1
    check_data(cfg, ("train",))
    with pytest.raises(UserError, match="2.jpg|annotation 2"):
        check_data(cfg, ("val",))


def test_the_pre_flight_never_spares_what_breaks_the_data_set(tmp_path):
    cfg = Config.fromfile(coco_place(tmp_path, ENTRY_CASES["box of 3"]))
    cfg.skip_bad_images = 9
    with pytest.raises(UserError, match=r"bbox is \[1, 2, 3\]"):
        check_data(cfg, ("train",))


def test_the_pre_flight_lets_warnings_pass(tmp_path):
    check_data(
        Config.fromfile(coco_place(tmp_path, ENTRY_CASES["unknown image"])), ("train", "val")
    )


def test_the_pre_flight_counts_all_errors(tmp_path):
    def spoil(whole):
        for entry in whole["annotations"]:
            entry["bbox"] = [1]

    cfg = Config.fromfile(coco_place(tmp_path, Case(content(spoil))))
    with pytest.raises(UserError, match="annotation 1 .*; 3 errors in all"):
        check_data(cfg, ("train",))
