"""Which checkpoints of whole models are taken: strictly to test, with another head to fine-tune."""

import pytest
import torch
from procedural import STATE_DICTS
from test_bad_weights import resnet
from test_convert import ARCH, classifier

from pvt_mm import PVTv2
from pvt_mm.checkpoints.key_mapping import to_layout
from pvt_mm.checkpoints.layouts import LAYOUTS
from pvt_mm.errors import UserError
from pvt_mm.training.matching import load_matching


class Detector(torch.nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone, self.head = PVTv2(ARCH), torch.nn.Linear(32, classes)


def load(model, state, partly):
    """What a Runner does; returns what it would then load."""
    checkpoint = {"state_dict": dict(state)}
    load_matching(model, checkpoint, "a.pth", partly)
    return checkpoint["state_dict"]


def changed(**values):
    return Detector().state_dict() | {k.replace("__", "."): v for k, v in values.items()}


SHAPES = STATE_DICTS["pvt_v2_b1"]["classification"]
RELEASE = {key: torch.zeros(()).expand(shape) for key, shape in SHAPES.items()}
BAD = {
    "resnet": (resnet((3, 4, 6, 3)), r"the file looks like a ResNet-34 or ResNet-50 .*missing: "),
    "release": (RELEASE, "the file looks like pvt_v2_b1, with nothing around it"),
    "detector": (
        {f"backbone.{k}": v for k, v in RELEASE.items()} | {"head.bias": torch.zeros(3)},
        r"the file looks like pvt_v2_b1\): ",
    ),
    "nan": (
        changed(backbone__norm4__bias=torch.full((32,), float("nan"))),
        "holds no usable weights: not finite: backbone.norm4.bias",
    ),
    "ints": (
        changed(head__bias=torch.ones(3, dtype=torch.int64)),
        "not floating point: head.bias torch.int64",
    ),
    "half": (
        {k: v for k, v in changed().items() if "block4" not in k},
        "missing: backbone.block4.0.norm1.weight",
    ),
    "nothing": ({}, "missing: "),
}


@pytest.mark.parametrize("partly", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_error(name, partly):
    state, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        load(Detector(), state, partly)
    assert "checkpoint a.pth " in str(caught.value) and "\n" not in str(caught.value)


def test_a_head_of_other_classes_is_dropped_and_named_to_fine_tune(monkeypatch):
    lines = []
    monkeypatch.setattr("pvt_mm.training.matching.log", lines.append)
    model, state = Detector(5), Detector(3).state_dict()
    assert load(model, state, True).keys() == state.keys() - {"head.weight", "head.bias"}
    (line,) = lines
    assert "head.weight (3, 32) for (5, 32), head.bias (3,) for (5,)" in line
    assert torch.equal(model.backbone.norm4.weight, state["backbone.norm4.weight"])
    with pytest.raises(UserError, match="of another shape: head.weight"):
        load(model, state, False)


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if 2 in x.versions], ids=lambda x: x.name)
def test_a_release_fills_the_backbone_to_fine_tune(layout, monkeypatch):
    lines = []
    monkeypatch.setattr("pvt_mm.training.matching.log", lines.append)
    model, state = Detector(), classifier(2)
    head = model.head.weight.clone()
    model.load_state_dict(load(model, to_layout(state, layout)[0], True), strict=False)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert torch.equal(model.head.weight, head)
    assert lines == [] if layout.family == "mmdet" else "unused" in lines[0]
