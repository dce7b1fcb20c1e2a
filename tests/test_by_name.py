"""Labels that follow the names of the classes, whatever the order of the categories in a file."""

import json

import pytest
import torch
from bad_data import CLASSES, Case, coco_content, coco_place, with_evaluator
from mmdet.datasets.api_wrappers import COCO
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.structures import InstanceData

from pvt_mm.data.check_dataset import check_dataset
from pvt_mm.data.checks import KINDS as FAULTS
from pvt_mm.reporting.coco_results import CocoResults

KINDS = ("pvt_mm.CocoDataset", "pvt_mm.CocoMetric")
MMDET = ("CocoDataset", "CocoMetric")


def shuffled(content):
    """Objects of both classes, and the categories in another order, with ids that fall."""
    content["annotations"][1]["category_id"] = 2
    content["categories"].reverse()
    ids = {1: 7, 2: 3}
    for entry in content["categories"]:
        entry["id"] = ids[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = ids[entry["category_id"]]


def by_name(config, kinds=KINDS):
    """Let a config take other kinds of data set and metric."""
    text = config.read_text()
    for old, new in zip(MMDET, kinds, strict=True):
        text = text.replace(f"type='{old}'", f"type='{new}'")
    config.write_text(text)
    return config


@pytest.fixture
def place(tmp_path):
    """A config, its data set and its evaluator, both files in another order than the classes."""
    config = with_evaluator(tmp_path, shuffled)
    (tmp_path / "a.json").write_text((tmp_path / "truth.json").read_text())
    return config


def read(config):
    """Build the validation set and its metric, and read the labels by the classes' names."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        metric = METRICS.build({**cfg.val_evaluator, "metric": "bbox", "classwise": True})
    metric.dataset_meta = dataset.metainfo
    names = dataset.metainfo["classes"]
    labels = [
        names[instance["bbox_label"]]
        for index in range(len(dataset))
        for instance in dataset.get_data_info(index)["instances"]
    ]
    return dataset, metric, labels


def score(dataset, metric, labels):
    """Score predictions that are the truth's boxes with the given labels, by name."""
    for index, label in enumerate(labels):
        metric.process({}, [sample_of(dataset, index, label).to_dict()])
    return metric.evaluate(len(dataset))


def sample_of(dataset, index, label):
    """Predict an image's one box, with a label by name."""
    info = dataset.get_data_info(index)
    sample = DetDataSample(metainfo=dict(img_id=info["img_id"], ori_shape=(64, 48)))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([instance["bbox"] for instance in info["instances"]]),
        scores=torch.ones(1),
        labels=torch.tensor([dataset.metainfo["classes"].index(label)]),
    )
    return sample


def test_labels_and_ap_follow_the_names(place):
    dataset, metric, labels = read(by_name(place))
    assert labels == ["disc", "box", "disc"]  # as the file says by its ids
    figures = score(dataset, metric, labels)
    assert figures["coco/bbox_mAP"] == 1
    assert figures["coco/disc_precision"] == figures["coco/box_precision"] == 1


def test_each_class_has_the_ap_of_its_own_name(place):
    """The one box is called a disc: no box was found, and two of three discs are right."""
    dataset, metric, _ = read(by_name(place))
    for _ in range(2):  # a metric is used again after each epoch
        figures = score(dataset, metric, ["disc", "disc", "disc"])
        assert figures["coco/box_precision"] == 0 and figures["coco/disc_precision"] > 0.6
    samples = [sample_of(dataset, index, "disc").to_dict() for index in range(3)]
    results = CocoResults(COCO(dataset.ann_file), dataset.cat_ids, metric, samples)
    disc, box = results.average_precisions["box AP"]
    assert disc == pytest.approx(figures["coco/disc_precision"], abs=1e-3) and box == 0


def test_the_right_labels_fail_by_mmdets_own_classes(place):
    """What the check refuses there; else this file shows nothing."""
    dataset, metric, labels = read(place)
    assert labels == ["box", "disc", "box"]
    assert score(dataset, metric, ["disc", "box", "disc"])["coco/bbox_mAP"] == 0


def test_a_file_in_the_order_of_the_classes_is_read_as_by_mmdet(tmp_path):
    config = with_evaluator(tmp_path, lambda content: None)
    theirs = read(config)
    ours = read(by_name(config))
    assert ours[2] == theirs[2]
    assert ours[0].cat_ids == theirs[0].cat_ids
    assert score(*ours) == pytest.approx(score(*theirs), nan_ok=True)  # no box is in it


def found_in(config, split="val"):
    (report,) = check_dataset(config, splits=[split], workers=0)
    return [finding for *_, kept in report.findings.groups() for finding in kept]


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_check_takes_another_order_where_names_count(place, split):
    assert [finding.kind for finding in found_in(by_name(place), split)] == []


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        (MMDET, "category-order"),
        ((MMDET[0], KINDS[1]), "category-order"),
        ((KINDS[0], MMDET[1]), "evaluator-file"),
    ],
    ids=["mmdet's", "only the metric", "only the data set"],
)
def test_the_check_refuses_another_order_where_places_count(place, kinds, kind):
    assert {finding.kind for finding in found_in(by_name(place, kinds))} == {kind}
    assert KINDS[1] in FAULTS[kind].advice


@pytest.mark.parametrize("kinds", [MMDET, KINDS], ids=["mmdet's", "by name"])
def test_a_class_that_the_file_lacks_in_between_is_refused(tmp_path, kinds):
    """The categories that follow it would be counted from its place."""
    config = by_name(coco_place(tmp_path, Case(lambda root, content: None)), kinds)
    content = coco_content()
    content["categories"] = [dict(id=2, name="box")]
    for entry in content["annotations"]:
        entry["category_id"] = 2
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert CLASSES == ("disc", "box")
    (finding,) = found_in(config)
    assert finding.kind == "category-order"
    assert "'box' (id 2) gets label 0, which is 'disc'" in finding.found


@pytest.mark.parametrize("kinds", [MMDET, KINDS], ids=["mmdet's", "by name"])
def test_ids_that_fall_permute_the_names_of_mmdets_figures(tmp_path, kinds):
    """The file is in the order of the classes, and mAP is right; the check tells of the names."""

    def renumber(content):
        content["annotations"][1]["category_id"] = 2
        for entry in content["categories"]:
            entry["id"] = 9 - entry["id"]
        for entry in content["annotations"]:
            entry["category_id"] = 9 - entry["category_id"]

    config = by_name(with_evaluator(tmp_path, renumber), kinds)
    (tmp_path / "a.json").write_text((tmp_path / "truth.json").read_text())
    figures = score(*read(config)[:2], ["disc", "disc", "disc"])
    wrong = kinds == MMDET
    assert (figures["coco/disc_precision"] == 0) == wrong, "no disc is right, it says"
    assert (figures["coco/box_precision"] == 0) != wrong
    assert found_in(config) == []
    config.write_text(config.read_text() + "val_evaluator['classwise'] = True\n")
    assert [each.kind for each in found_in(config)] == ["evaluator-classwise"] * wrong
