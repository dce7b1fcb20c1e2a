"""Which layout a state dict has, where the PVT stands in it, and whole detectors."""

from collections import OrderedDict

import pytest
import torch
from mmdet.models.backbones.pvt import pvt_convert
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner.checkpoint import load_state_dict
from procedural import DATA, STATE_DICTS, official_state_dict
from test_convert import ARCH, classifier

from pvt_mm import PVT, PVTv2
from pvt_mm.backbones import ARCHS
from pvt_mm.checkpoints import (
    CheckpointError,
    load_pretrained,
    map_classifier,
    map_state_dict,
    recognise_arch,
)
from pvt_mm.checkpoints.key_mapping import locate, to_layout
from pvt_mm.checkpoints.layouts import LAYOUTS
from pvt_mm.errors import UserError
from pvt_mm.training.matching import load_matching

CONFIGS = DATA.parents[1] / "configs"
PAIRS = [(layout, version) for layout in LAYOUTS for version in layout.versions]
IDS = [f"{layout.name}-{version}" for layout, version in PAIRS]


def in_layout(layout, version):
    return to_layout(classifier(version), layout)[0]


@pytest.mark.parametrize(("layout", "version"), PAIRS, ids=IDS)
def test_layout_is_recognised_and_mapped(layout, version):
    state, wanted = in_layout(layout, version), classifier(version)
    assert locate(state).layout is layout
    mapped, unused = map_state_dict(state)
    backbone = PVT(ARCH, pretrain_img_size=64) if version == 1 else PVTv2(ARCH)
    assert mapped.keys() == backbone.state_dict().keys()
    for key, value in mapped.items():
        same = value[:, 1:] if key == "pos_embed4" else value  # mmdet has no class token's entry
        assert torch.equal(same, wanted[key][:, 1:] if key == "pos_embed4" else wanted[key])
    left = {"official": 5 if version == 1 else 2, "timm": 2}.get(layout.name)
    left = {"transformers Pvt": 5, "transformers PvtV2": 2}.get(layout.name, left or 0)
    assert len(unused) == left
    complete, unused = map_classifier(state)
    assert not unused and len(complete) == len(mapped) + left


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.encoder."])
@pytest.mark.parametrize(("layout", "version"), PAIRS, ids=IDS)
def test_prefix_is_found(layout, version, prefix):
    state = {f"{prefix}{key}": value for key, value in in_layout(layout, version).items()}
    found = locate(state | ({"neck.weight": torch.ones(1)} if prefix else {}))
    assert (found.layout, found.prefix) == (layout, prefix)
    assert list(found.outside) == (["neck.weight"] if prefix else [])


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.inner])
def test_bare_models_of_transformers(layout):
    state = in_layout(layout, layout.versions[0])
    bare = {k.removeprefix(layout.inner): v for k, v in state.items() if k not in layout.outer}
    assert not any(key.startswith(layout.inner) for key in bare)
    assert map_state_dict(bare)[0].keys() == map_state_dict(state)[0].keys()


def test_several_networks_need_a_prefix():
    state = classifier(2)
    both = {f"{who}.{k}": v for who in ("student", "teacher") for k, v in state.items()}
    with pytest.raises(CheckpointError, match="2 PVTs, under student., teacher.: .*prefix="):
        map_state_dict(both)
    mapped, unused = map_state_dict(both, prefix="teacher")
    assert len(unused) == len(state) + 2 and mapped.keys() < state.keys()


def test_unknown_and_missing_keys_surface():
    state = in_layout(LAYOUTS[1], 2)
    state["stages.0.blocks.0.ls1.gamma"] = torch.ones(8)
    mapped, _ = map_state_dict(state)
    assert "stages.0.blocks.0.ls1.gamma" in mapped  # for the strict check to name
    state = in_layout(LAYOUTS[3], 2)
    del state["pvt_v2.encoder.layers.0.blocks.0.attention.value.bias"]
    with pytest.raises(CheckpointError, match="missing beside .*key.bias: .*value.bias"):
        map_state_dict(state)


@pytest.mark.parametrize("name", STATE_DICTS)
def test_release_is_recognised_in_every_layout(name):
    shapes = STATE_DICTS[name]["classification"]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    version = ARCHS[name].version
    for layout in (layout for layout in LAYOUTS if version in layout.versions):
        there, _ = to_layout(state, layout)
        assert recognise_arch(map_classifier(there).state_dict) == name


def test_head_of_another_class_count_is_left(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        "pvt_mm.checkpoints.pretrained.print_log", lambda line, **kwargs: lines.append(line)
    )
    torch.save(classifier(2), tmp_path / "a.pth")
    model = PVTv2(ARCH)
    model.head = torch.nn.Linear(32, 7)
    before = model.head.weight.clone()
    load_pretrained(model, str(tmp_path / "a.pth"))
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.norm4.weight, classifier(2)["norm4.weight"])
    assert "head.bias are not loaded: the file has 10 classes, the model 7" in lines[0]

    model.head = torch.nn.Linear(32, 10)
    load_pretrained(model, str(tmp_path / "a.pth"))
    assert torch.equal(model.head.weight, classifier(2)["head.weight"])
    torch.save(map_state_dict(classifier(2)).state_dict, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="missing .2.: head.weight, head.bias"):
        load_pretrained(model, str(tmp_path / "a.pth"))


# Whole detectors: MMDetection's own PVT in MMDetection's own RetinaNet, against ours


def detectors(version):
    """RetinaNet around MMDetection's backbone, and around ours."""
    register_all_modules(init_default_scope=False)
    name = "pvt_t" if version == 1 else "pvt_v2_b0"
    cfg = Config.fromfile(CONFIGS / f"retinanet_{name}_fpn_1x_coco.py").model
    cfg.backbone.init_cfg = None
    cfg.bbox_head.update(stacked_convs=1, feat_channels=32, in_channels=32)
    cfg.neck.out_channels = 32
    theirs = Config(cfg.to_dict())
    theirs.backbone = {
        "type": "mmdet.PyramidVisionTransformer" + ("" if version == 1 else "V2"),
        "num_layers": [2, 2, 2, 2],
        "drop_path_rate": 0.0,
        "init_cfg": None,
    }
    if version == 2:
        theirs.backbone.embed_dims = 32
    torch.manual_seed(0)
    source = MMDET_MODELS.build(theirs).eval()
    for parameter in source.parameters():  # norms, biases and embeddings, too
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    for key, module in source.backbone.named_modules():
        if key.endswith(("attn.norm", ".0.norm")):
            module.eps = 1e-5  # the release's
    return source, MMDET_MODELS.build(cfg).eval()


@pytest.mark.parametrize("version", [1, 2])
def test_detector_of_mmdetection_gives_the_same(version):
    source, target = detectors(version)
    state = source.state_dict()
    image = torch.randn(1, 3, 75, 109)

    def difference():
        with torch.inference_mode():
            pairs = zip(source(image), target(image), strict=True)
            return max(float((a - b).abs().max()) for x in pairs for a, b in zip(*x, strict=True))

    assert difference() > 1e-2
    target.load_state_dict(state, strict=True)  # as torch loads
    assert difference() < 1e-4
    for parameter in target.parameters():
        parameter.data.zero_()
    load_state_dict(target, OrderedDict(state), strict=True)  # as mmengine loads
    assert difference() < 1e-4
    for parameter in target.parameters():
        parameter.data.zero_()
    checkpoint = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    load_matching(target, checkpoint, "a.pth")
    assert difference() < 1e-4


def test_detector_of_another_size_is_one_error():
    source, _ = detectors(2)
    cfg = Config.fromfile(CONFIGS / "retinanet_pvt_v2_b1_fpn_1x_coco.py").model
    cfg.backbone.init_cfg = None
    cfg.bbox_head.update(stacked_convs=1, feat_channels=32, in_channels=32)
    cfg.neck.out_channels = 32
    model = MMDET_MODELS.build(cfg)
    with pytest.raises(UserError, match="of another shape: .*180 in all"):
        load_matching(model, {"state_dict": source.state_dict()}, "a.pth")


def test_detectors_position_embeddings_are_resized():
    model = torch.nn.ModuleDict({"backbone": PVT(ARCH, pretrain_img_size=96)})
    state = PVT(ARCH, pretrain_img_size=64).state_dict()
    model.load_state_dict({f"backbone.{key}": value for key, value in state.items()}, strict=True)
    assert model["backbone"].pos_embed1.shape == (1, 24 * 24, 8)
    assert torch.equal(model["backbone"].pos_embed4[:, 0], state["pos_embed4"][:, 0])


def test_own_checkpoints_are_left_alone(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "pvt_mm.checkpoints.pretrained.print_log", lambda line, **kwargs: lines.append(line)
    )
    backbone = PVT(ARCH)
    backbone.load_state_dict(PVT(ARCH).state_dict(), strict=True)
    with pytest.raises(RuntimeError, match="Missing key.*patch_embed1"):
        backbone.load_state_dict({"a": torch.ones(1)}, strict=True)
    assert lines == []


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0"])
def test_what_mmdetection_converted_is_the_release_again(name):
    release = official_state_dict(name)
    mapped, unused = map_state_dict(pvt_convert(OrderedDict(release)))
    wanted = {k: v for k, v in release.items() if not k.startswith(("head.", "norm.", "cls_"))}
    assert not unused and mapped.keys() == wanted.keys()
    if name == "pvt_tiny":  # MMDetection drops the class token's entry
        for embeds in (mapped, wanted):
            embeds["pos_embed4"] = embeds["pos_embed4"][:, 1:]
    assert all(torch.equal(mapped[key], value) for key, value in wanted.items())
