"""tools/new_config.py: configs of prepared data that train as they are."""

import json
import re
from pathlib import Path

import labelled
import pytest
from mmengine.registry import DATASETS, DefaultScope

from pvt_mm.config.loading import load_config, walk
from pvt_mm.data.new_config import main
from pvt_mm.data.prepare import prepare_data
from pvt_mm.inference.tool import main as infer
from pvt_mm.training.train import run_train

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

WRITERS = {
    "retinanet": labelled.write_voc,
    "mask_rcnn": labelled.write_cvat,
    "semantic_fpn": lambda root, scenes: labelled.write_maps(root, scenes, "binary"),
}
# As wide as B2, since necks are as wide.
THIN = {"_delete_": True, "embed_dims": (64, 128, 320, 512), "depths": (1, 1, 1, 1)}
# What the recipes themselves say.
CLIPPED = {"detr": 0.1, "dino": 0.1, "deformable_detr": 0.1}
CLIPPED |= dict.fromkeys(("mask2former", "mask2former_semantic"), 0.01)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared data set for each model."""
    root = tmp_path_factory.mktemp("data")
    for model, write in WRITERS.items():
        write(root / f"{model}_in", labelled.make_scenes())
        prepare_data(root / f"{model}_in", root / model)
    return root


def new_config(prepared, tmp_path, model, *options, data=None):
    out = tmp_path / "my_config.py"
    folder = str(prepared / (data or model))
    assert main([folder, "--model", model, "--out", str(out), *options]) == 0
    return out


def shortest(data):
    """Options for one epoch or iteration, validated after it, in one process."""
    iterations = "max_iters" if data == "semantic_fpn" else "max_epochs"
    options = {f"train_cfg.{iterations}": 1, "train_cfg.val_interval": 1}
    for split in ("train", "val"):
        options |= {f"{split}_dataloader.{key}": 0 for key in ("num_workers", "persistent_workers")}
    return options


@pytest.mark.parametrize(
    ("model", "arch", "data"),
    [
        ("retinanet", "b0", "retinanet"),
        ("retinanet", "small", "mask_rcnn"),
        ("mask_rcnn", "b2_li", "mask_rcnn"),
        ("atss", "b2", "retinanet"),
        ("gfl", "b2", "retinanet"),
        ("detr", "small", "retinanet"),
        ("dino", "b2", "retinanet"),
        ("deformable_detr", "b0", "mask_rcnn"),
        ("cascade_mask_rcnn", "b2", "mask_rcnn"),
        ("sparse_rcnn", "b2_li", "retinanet"),
        ("mask2former", "b0", "mask_rcnn"),
        ("semantic_fpn", "b1", "semantic_fpn"),
        ("upernet", "b0", "semantic_fpn"),
        ("segformer", "b2", "semantic_fpn"),
        ("mask2former_semantic", "b0", "semantic_fpn"),
    ],
)
def test_heads_schedule_and_data_fit(model, arch, data, prepared, tmp_path):
    cfg = load_config(new_config(prepared, tmp_path, model, "--arch", arch, data=data))
    heads = [
        count
        for path, node in walk(cfg.model)
        for key, count in node.items()
        if key in ("num_classes", "num_things_classes") and not path.endswith("rpn_head")
    ]
    assert heads and set(heads) == {2}
    assert cfg.model.backbone.arch == arch
    epochs = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters / 3
    assert cfg.train_dataloader.batch_size == 2  # of six images: three iterations an epoch
    warm_up = cfg.param_scheduler[0]
    assert warm_up.type == "LinearLR" and 1 <= warm_up.end <= 0.1 * 3 * epochs
    assert cfg.default_hooks.logger.interval <= 3
    assert cfg.default_hooks.checkpoint.save_best
    assert cfg.optim_wrapper.clip_grad.max_norm == CLIPPED.get(model, 1.0)
    text = json.dumps(cfg.train_dataloader.dataset)
    assert "reduce_zero_label" not in text and "ADE" not in text
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        sample = dataset[0]["data_samples"]
    assert len(dataset) == 6
    scene = next(s for s in labelled.make_scenes() if s.stem in sample.img_path)
    if data == "semantic_fpn":
        assert sorted(sample.gt_sem_seg.data.unique().tolist())[:2] == [0, 1]
    else:
        labels = [*sample.gt_instances.labels, *sample.ignored_instances.labels]
        names = [dataset.metainfo["classes"][label] for label in labels]
        assert sorted(names) == sorted(name for name, _ in scene.objects)


# MMDetection published 7.4 GB for two images of 1333 x 800; seven tenths of a GPU are planned with.
@pytest.mark.parametrize(("gib", "model", "batch"), [(80, "retinanet", 15), (6, "retinanet", 1)])
def test_the_batch_and_the_rate_fit_a_gpu(gib, model, batch, prepared, tmp_path, monkeypatch):
    content = json.loads((prepared / model / "prepared.json").read_text())
    content |= {"size": [2666, 1600], "side": 64}
    content["splits"]["train"]["images"] = 1000
    (tmp_path / "prepared.json").write_text(json.dumps(content))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (gib * 2**30, 80 * 2**30))
    cfg = load_config(new_config(tmp_path, tmp_path, model, data="."))
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4 * (batch / 16) ** 0.5, rel=0.05)
    (scale,) = [step.scale for step in cfg.test_pipeline if step.type == "Resize"]
    assert scale == (1344, 800)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retinanet", "--model", "mask_rcnn"], "holds boxes, from which atss, .*retinanet"),
        (["semantic_fpn", "--model", "retinanet"], "holds label maps, from which mask2former_sem"),
        (["mask_rcnn", "--model", "semantic_fpn"], "holds masks, from which .* retinanet"),
        (["retinanet", "--model", "atss", "--arch", "b0"], "atss has recipes for b2_li, b2"),
        (["retinanet_in", "--model", "retinanet"], "first run python tools/prepare_data.py"),
    ],
)
def test_what_does_not_fit_is_one_line(words, message, prepared, tmp_path, capsys):
    out = tmp_path / "my_config.py"
    assert main([str(prepared / words[0]), *words[1:], "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not out.exists()
    assert re.search(message, error), error


def test_a_config_is_not_replaced_unasked(prepared, tmp_path, capsys):
    out = new_config(prepared, tmp_path, "retinanet")
    words = [str(prepared / "retinanet"), "--model", "retinanet", "--out", str(out)]
    assert main(words) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


# Of 224 x 224 pixels the encoder gets 1045 tokens; of an image that only fits in, fewer than 900.
def test_a_detector_of_queries_has_tokens_for_them(prepared, tmp_path):
    cfg = load_config(new_config(prepared, tmp_path, "dino", data="retinanet"))
    assert cfg.image_size == (224, 224)
    assert cfg.model.num_queries == 300


@pytest.mark.slow
@pytest.mark.parametrize("model", WRITERS)
def test_a_new_config_trains_and_draws(model, prepared, tmp_path, monkeypatch):
    config = new_config(prepared, tmp_path, model)
    monkeypatch.chdir(tmp_path)
    # As a user would change it: a smaller network, from random weights.
    arch = "dict(_delete_=True, embed_dims=(32, 64, 160, 256), depths=(1, 1, 1, 1))"
    with config.open("a") as file:
        file.write(f"model.update(backbone=dict(arch={arch}, init_cfg=None))\n")
    few = shortest(model)
    # Everything is a detection, so that a network which has learnt nothing has some.
    if model == "retinanet":
        few |= {"model.test_cfg.score_thr": 0.0, "model.test_cfg.max_per_img": 5}
    if model == "mask_rcnn":
        few |= {"model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rcnn.max_per_img": 5}
        few |= {f"model.test_cfg.rpn.{key}": 20 for key in ("nms_pre", "max_per_img")}
        few |= {f"model.train_cfg.rpn_proposal.{key}": 20 for key in ("nms_pre", "max_per_img")}
        few |= {"model.train_cfg.rcnn.sampler.num": 8}
    run_train(config, cfg_options=few)
    work_dir = Path("work_dirs/my_config")
    assert list(work_dir.glob("best_*.pth"))
    assert len(list(work_dir.glob("*/vis_data/vis_image/*.png"))) == 2  # the images of val
    if model == "mask_rcnn":
        (checkpoint,) = work_dir.glob("epoch_*.pth")
        photo = str(prepared / "mask_rcnn_in/images/IMG_0000.jpg")
        command = [str(config), str(checkpoint), photo, "--out-dir", "found"]
        assert infer([*command, "--score-thr", "0", "--device", "cpu"]) == 0
        content = json.loads(Path("found/results.json").read_text())
        assert [(each["id"], each["name"]) for each in content["categories"]] == [
            (7, "bolt"),
            (3, "nut"),
        ]
        assert {each["category_id"] for each in content["annotations"]} <= {7, 3}
        assert content["annotations"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("dino", "retinanet"),
        pytest.param("cascade_mask_rcnn", "mask_rcnn", marks=pytest.mark.exhaustive),
        pytest.param("mask2former", "mask_rcnn", marks=pytest.mark.exhaustive),
        pytest.param("segformer", "semantic_fpn", marks=pytest.mark.exhaustive),
        pytest.param("mask2former_semantic", "semantic_fpn", marks=pytest.mark.exhaustive),
    ],
)
def test_a_new_config_of_another_recipe_trains(model, data, prepared, tmp_path, monkeypatch):
    config = new_config(prepared, tmp_path, model, "--arch", "b2", data=data)
    monkeypatch.chdir(tmp_path)
    few = shortest(data) | {"model.backbone.arch": THIN, "model.backbone.init_cfg": None}
    run_train(config, cfg_options=few)
    assert list(Path("work_dirs/my_config").glob("best_*.pth"))
