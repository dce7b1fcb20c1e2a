"""Learning rates decay by the layers of a PVT, in models of every toolbox."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from pvt_mm import PVT, PVTv2
from pvt_mm.errors import UserError
from pvt_mm.registry import MODELS

CONFIGS = Path(__file__).parents[1] / "configs"
# PVTv2-B0 has two blocks a stage: layers 0 to 9, each learning at twice the rate of the one before.
LAYERS = {
    "patch_embed1.proj.weight": 0,
    "patch_embed1.norm.bias": 0,
    "block1.0.attn.q.weight": 1,
    "block1.1.mlp.fc1.weight": 2,
    "norm1.weight": 2,
    "patch_embed2.proj.bias": 3,
    "block2.0.attn.sr.weight": 3,
    "block2.1.mlp.dwconv.dwconv.weight": 4,
    "norm2.bias": 4,
    "patch_embed3.proj.weight": 5,
    "block3.0.norm1.weight": 5,
    "block3.1.attn.kv.bias": 6,
    "norm3.weight": 6,
    "patch_embed4.proj.weight": 7,
    "block4.0.mlp.fc2.weight": 7,
    "block4.1.attn.proj.weight": 8,
    "norm4.weight": 8,
}
PARAMWISE = {"layer_decay_rate": 0.5, "norm_decay_mult": 0.0, "bias_decay_mult": 0.0}


class Plain(BaseModel):
    """A network of nobody's toolbox."""

    def __init__(self, backbone):
        super().__init__()
        self.encoder = backbone
        self.head = nn.Linear(2, 2)

    def forward(self, inputs, mode="tensor"):
        return inputs


def from_config(name):
    cfg = Config.fromfile(str(CONFIGS / name))
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def rates(model, base=1.0, **paramwise):
    """Return learning rate and weight decay of every parameter, by name."""
    wrapper = build_optim_wrapper(
        model,
        {
            "constructor": "pvt_mm.LayerDecayOptimizerConstructor",
            "optimizer": {"type": "AdamW", "lr": base, "weight_decay": 0.25},
            "paramwise_cfg": {**PARAMWISE, **paramwise},
        },
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("make", "prefix", "heads"),
    [
        (lambda: from_config("retinanet_pvt_v2_b0_fpn_demo.py"), "backbone.", ("neck", "bbox_")),
        (lambda: from_config("fpn_pvt_v2_b0_demo.py"), "backbone.", ("neck", "decode_head")),
        (lambda: Plain(PVTv2("b0")), "encoder.", ("head",)),
    ],
    ids=["mmdet", "mmseg", "plain"],
)
def test_each_layer_has_its_rate(make, prefix, heads):
    model = make()
    found = rates(model, base=8.0)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, layer in LAYERS.items():
        assert found[prefix + name][0] == 8.0 / 2 ** (9 - layer), name
    of_heads = {rate for name, (rate, _) in found.items() if name.startswith(heads)}
    assert of_heads == {8.0}


def test_layers_are_counted_as_mmpretrain_counts():
    """From 0, the first patch embedding, to the heads; all between them occur."""
    model = PVT("tiny")
    names = [f"backbone.{name}" for name, _ in model.named_parameters()]
    depths = [model.get_layer_depth(name, "backbone.") for name in [*names, "head.fc.weight"]]
    assert {total for _, total in depths} == {2 + 2 + 2 + 2 + 2}
    layers = [layer for layer, _ in depths]
    assert sorted(set(layers)) == list(range(10))
    assert [name for name, layer in zip(names, layers, strict=False) if layer == 0] == [
        "backbone.pos_embed1",
        *(n for n in names if n.startswith("backbone.patch_embed1.")),
    ]
    assert layers[-1] == 9 and 9 not in layers[:-1]


def test_weight_decay_is_what_paramwise_cfg_says():
    model = Plain(PVT("tiny"))
    found = rates(model, custom_keys={"pos_embed": {"decay_mult": 0.0}})
    for name, (_, decay) in found.items():
        module = model.get_submodule(name.rpartition(".")[0])
        spared = isinstance(module, nn.LayerNorm) or name.endswith(".bias") or "pos_embed" in name
        assert decay == (0.0 if spared else 0.25), name


def test_rates_of_paramwise_cfg_multiply():
    found = rates(Plain(PVTv2("b0")), bias_lr_mult=4.0, custom_keys={"block2": {"lr_mult": 0.5}})
    assert found["encoder.block4.1.attn.q.bias"][0] == 4.0 / 2
    assert found["encoder.block4.1.attn.q.weight"][0] == 1.0 / 2
    assert found["encoder.block2.1.attn.q.weight"][0] == 0.5 / 2**5
    assert found["head.bias"][0] == 4.0


def test_frozen_parameters_are_left_out():
    model = Plain(PVTv2("b0", frozen_stages=2))
    found = rates(model)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("encoder.block1", "encoder.norm2")) for name in found)
    assert found["encoder.block3.0.attn.q.weight"][0] == 1 / 2**4


def test_a_step_moves_by_the_rate():
    """SGD with a gradient of one everywhere: each parameter moves by its own rate."""
    model = Plain(PVTv2("b0"))
    wrapper = build_optim_wrapper(
        model,
        {
            "constructor": "pvt_mm.LayerDecayOptimizerConstructor",
            "optimizer": {"type": "SGD", "lr": 1.0},
            "paramwise_cfg": {"layer_decay_rate": 0.5},
        },
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    for name, layer in LAYERS.items():
        moved = before[f"encoder.{name}"] - model.get_parameter(f"encoder.{name}")
        torch.testing.assert_close(moved, torch.full_like(moved, 2.0 ** (layer - 9)))


@pytest.mark.parametrize("rate", [None, 0, -0.5, 1.5, "0.5", True])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(UserError, match="layer_decay_rate is .*; expected a number above 0"):
        rates(Plain(PVTv2("b0")), layer_decay_rate=rate)


def test_a_model_without_pvt_is_refused():
    with pytest.raises(UserError, match="Plain has no pvt_mm.PVT"):
        rates(Plain(nn.Linear(2, 2)))
