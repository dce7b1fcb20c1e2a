"""The model index against the configs, the committed files and MMDetection's own metafile."""

from __future__ import annotations

import re
from pathlib import Path

import mmdet
import mmengine.hub
import pytest
import yaml
from modelindex.load_model_index import load as load_model_index
from recipes import BASELINE_WEIGHTS, CONFIGS, MODERN, ROWS, parsed

from pvt_mm.archs import ARCHS
from pvt_mm.config.families import FAMILIES
from pvt_mm.costs.measured import measured
from pvt_mm.errors import UserError
from pvt_mm.zoo.tool import main, stale_files, zoo_files

ROOT = CONFIGS.parent
INDEX = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
# Without detectors and segmentors on top: by hand, 8 x 128 images and 300 epochs.
CLASSIFIERS = {"pvt_small_in1k": ("small", 79.8), "pvt_v2_b2_in1k": ("b2", 82.0)}
MODELS = {
    model["Name"]: model
    for path in INDEX
    for model in yaml.safe_load((ROOT / path).read_text())["Models"]
}


def test_committed_files_are_what_the_tables_say(capsys):
    assert stale_files() == []
    assert main(["--check"]) == 0


def test_old_files_are_found(tmp_path):
    names = list(zoo_files())
    (tmp_path / "README.md").write_text("<!-- models: here -->\n\n\n<!-- end of models -->")
    assert stale_files(tmp_path) == names
    for name, text in zoo_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert stale_files(tmp_path) == []
    (tmp_path / names[1]).write_text("Models: []\n")
    assert stale_files(tmp_path) == [names[1]]
    (tmp_path / "README.md").write_text("# A page without a place for the table\n")
    with pytest.raises(UserError, match="README.md lacks the lines"):
        stale_files(tmp_path)


def test_index_lists_every_recipe_once():
    listed = [
        model["Name"]
        for path in INDEX
        for model in yaml.safe_load((ROOT / path).read_text())["Models"]
    ]
    assert sorted(listed) == sorted([*ROWS, *CLASSIFIERS])
    leaves = {path.stem for path in CONFIGS.glob("*.py") if not path.stem.endswith("_demo")}
    assert set(listed) == leaves
    assert len(INDEX) == len(FAMILIES)


def test_modelindex_accepts_the_files():
    index = load_model_index(str(ROOT / "model-index.yml"))
    assert len(index.models) == len(MODELS)
    assert not index.check(silent=True)


@pytest.mark.parametrize("name", ROWS)
def test_metadata_are_those_of_the_config(name):
    backbone, _, images, lr, decay, amp = ROWS[name]
    model, cfg = MODELS[name], parsed(name)
    metadata = model["Metadata"]
    assert (ROOT / model["Config"]).is_file()
    assert Path(model["Config"]).stem == name
    assert metadata["Backbone"] == backbone
    wrapper = cfg.optim_wrapper
    assert metadata["Optimizer"] == wrapper.optimizer.type == "AdamW"
    assert metadata["Training Techniques"][0] == "AdamW"
    assert "SGD" not in str(metadata)
    assert metadata["Learning Rate"] == pytest.approx(wrapper.optimizer.lr, rel=1e-5)
    assert metadata["Learning Rate"] == pytest.approx(lr, rel=1e-4)
    assert metadata["Weight Decay"] == wrapper.optimizer.weight_decay == decay
    assert metadata["Batch Size"] == 8 * cfg.train_dataloader.batch_size == 8 * images
    assert ("Mixed Precision" in metadata["Training Techniques"]) == amp
    assert (wrapper.type == "pvt_mm.AmpOptimWrapper") == amp
    clipped = bool(wrapper.get("clip_grad"))
    assert ("Gradient Clipping" in metadata["Training Techniques"]) == clipped
    assert metadata["Training Data"] == ("ADE20K" if "ade20k" in name else "COCO")
    if cfg.train_cfg.get("max_iters"):
        assert metadata["Iterations"] == cfg.train_cfg.max_iters
        assert "Epochs" not in metadata
    else:
        assert metadata["Epochs"] == cfg.train_cfg.max_epochs
        assert "Iterations" not in metadata


@pytest.mark.parametrize("name", ROWS)
def test_initial_weights_are_those_of_the_config(name):
    metadata = MODELS[name]["Metadata"]
    given = parsed(name).model.backbone.init_cfg.checkpoint
    address = metadata["Initial Weights"]
    if given.startswith("pvt://"):
        assert address == ARCHS[given.removeprefix("pvt://")].url
    elif given.startswith("https://"):
        assert address == given
    else:
        # Where mmengine finds the names of its own zoo and of torchvision's. OneDL has moved them.
        assert given in BASELINE_WEIGHTS["r50"]
        zoo, known = given.split("://")[1], Path(mmengine.hub.__file__).parent
        hub = "".join(path.read_text() for path in known.glob("*.json"))
        assert re.search(rf'"{re.escape(zoo)}": "\S+/{re.escape(Path(address).name)}"', hub)


def test_published_results():
    """Some of each family, by hand."""
    published = {
        "retinanet_pvt_t_fpn_1x_coco": [36.7],
        "retinanet_pvt_v2_b5_fpn_1x_coco": [46.2],
        "retinanet_pvt_s_fpn_1x_coco_640": [38.7],
        "retinanet_r50_fpn_1x_coco": [36.3],
        "mask_rcnn_pvt_l_fpn_1x_coco": [42.9, 39.5],
        "mask_rcnn_pvt_v2_b2_fpn_1x_coco": [45.3, 41.2],
        "mask_rcnn_pvt_v2_b2_fpn_3x_mstrain": [47.8, 43.1],
        "cascade_mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain_fp16": [50.9, 44.0],
        "atss_pvt_v2_b2_fpn_3x_mstrain_fp16": [49.9],
        "gfl_pvt_v2_b2_li_fpn_3x_mstrain_fp16": [49.2],
        "detr_pvt_s_8x2_50ep_coco": [34.7],
        "fpn_pvt_m_ade20k_40k": [41.6],
        "fpn_pvt_v2_b2_li_ade20k_40k": [45.1],
    }
    for name, values in published.items():
        found = [next(iter(result["Metrics"].values())) for result in MODELS[name]["Results"]]
        assert found == values, name
    for name, model in MODELS.items():
        by = model["Metadata"]["Results By"]
        assert "authors" in by if "Results" in model else by == "none published", name
        for result in model.get("Results", ()):
            assert set(result) == {"Task", "Dataset", "Metrics"}


def test_recipes_without_results_say_so():
    without = [name for name, model in MODELS.items() if "Results" not in model]
    assert set(without) > set(MODERN)
    page = (ROOT / "docs" / "model_zoo.md").read_text()
    for name, model in MODELS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| [`{name}`]")]
        assert ("none published" in row) == ("Results" not in model), name


def test_mmdetections_results_are_in_its_own_metafile():
    path = Path(mmdet.__file__).parent / ".mim/configs/pvt/metafile.yml"
    theirs = {model["Weights"]: model for model in yaml.safe_load(path.read_text())["Models"]}
    ours = {
        model["Weights"]: model
        for model in MODELS.values()
        if "MMDetection" in model["Metadata"]["Weights Hold"]
    }
    assert set(ours) == set(theirs) and len(ours) == 9
    for address, model in ours.items():
        their = theirs[address]
        assert model["Name"].replace("_", "") == their["Name"].replace("pvtv2-", "pvt_v2-").replace(
            "-", ""
        ).replace("_", "")
        metrics = model["Results"][0]["Metrics"]
        assert metrics["box AP of MMDetection"] == their["Results"][0]["Metrics"]["box AP"]
        memory = their["Metadata"]["Training Memory (GB)"]
        assert model["Metadata"]["Training Memory (GB)"] == memory
        resources = their["Metadata"]["Training Resources"]
        assert model["Metadata"]["Training Resources"] == resources
    others = [model for model in MODELS.values() if model["Weights"] not in theirs]
    assert {model["Metadata"]["Training Resources"] for model in others} == {"8 GPUs"}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name):
    arch, top1 = CLASSIFIERS[name]
    metadata, cfg = MODELS[name]["Metadata"], parsed(name)
    assert cfg.model.backbone.arch == arch
    assert MODELS[name]["Results"][0]["Metrics"] == {"top-1 accuracy": top1}
    assert MODELS[name]["Weights"] == ARCHS[name.removesuffix("_in1k")].url
    optimizer = cfg.optim_wrapper.optimizer
    assert metadata["Optimizer"] == optimizer.type == "AdamW"
    assert metadata["Learning Rate"] == optimizer.lr == 1e-3
    assert metadata["Weight Decay"] == optimizer.weight_decay == 0.05
    assert metadata["Batch Size"] == 8 * cfg.train_dataloader.batch_size == 1024
    assert metadata["Epochs"] == cfg.train_cfg.max_epochs == 300
    # No detector or segmentor is initialised with itself.
    assert "Initial Weights" not in metadata


def test_every_model_has_weights_that_say_what_they_are():
    # mim download stops at a model without any.
    for model in MODELS.values():
        hold, initial = (model["Metadata"].get(k) for k in ("Weights Hold", "Initial Weights"))
        assert model["Weights"].startswith("https://") and model["Weights"].endswith(".pth")
        assert ("training starts from" in hold) == (model["Weights"] == initial)


def test_committed_figures_are_complete():
    figures = measured()
    assert list(figures["backbones"]) == list(ARCHS)
    assert set(figures["recipes"]) == set(MODELS)
    for name, arch in ARCHS.items():
        sizes = figures["backbones"][name]["sizes"]
        assert list(sizes) == ["224x224", "512x512", "800x1280"]
        # Attention makes operations grow faster than pixels; linear SRA's keys are fixed.
        growth = sizes["800x1280"]["flops"] / sizes["512x512"]["flops"]
        assert (growth > 800 * 1280 / 512**2) == (not arch.linear_sra), name
