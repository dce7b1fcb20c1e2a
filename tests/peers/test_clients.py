"""Adapters, quantizers, offloading and attribution of others, around plain and fast backbones."""

import copy

import pytest
import torch
from procedural import build_procedural, procedural_image
from torch import nn

from pvt_mm import accelerate as make_fast

peft = pytest.importorskip("peft")

KINDS = ("pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li")
every_kind = pytest.mark.parametrize("name", KINDS)
plain_and_fast = pytest.mark.parametrize("fast", [False, True], ids=["plain", "accelerated"])


def prepared(name, fast):
    model = build_procedural(name)
    if fast:
        assert make_fast(model).swapped
    return model


def relative(outs, expected):
    pairs = zip(outs, expected, strict=True)
    return max(((one - other).norm() / other.norm()).item() for one, other in pairs)


@pytest.mark.parametrize("side", [64, pytest.param(512, marks=pytest.mark.exhaustive)])
@plain_and_fast
@every_kind
def test_peft_adapters_learn_and_merge(name, fast, side):
    torch.manual_seed(0)
    image = procedural_image(side, side)
    targets = ["q", "kv", "proj", "fc1", "fc2"]
    config = peft.LoraConfig(target_modules=targets, r=4, init_lora_weights=False)
    model = prepared(name, fast)
    # `proj` names the patch embeddings' convolutions, too.
    count = sum(key.split(".")[-1] in targets for key, _ in model.named_modules())
    adapted = peft.get_peft_model(model, config)
    outs = adapted(image)
    sum(out.square().mean() for out in outs).backward()
    ups = [p for key, p in adapted.named_parameters() if "lora_B" in key]
    assert len(ups) == count and all(up.grad.abs().sum() > 0 for up in ups)
    with torch.no_grad():
        assert relative(adapted(image), outs) < 1e-5
        assert relative(adapted.merge_and_unload()(image), outs) < 1e-4


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
@plain_and_fast
@every_kind
def test_torchao_quantizes_every_linear(name, fast, kind, threads):
    quantization = pytest.importorskip("torchao.quantization")
    model, image = prepared(name, fast), procedural_image(128, 96)
    with torch.no_grad():
        expected = model(image)
        quantization.quantize_(model, getattr(quantization, kind)())
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert linears
        assert all(type(layer.weight) is not nn.Parameter for layer in linears)
        outs = model(image)
    assert relative(outs, expected) < 0.1


@pytest.mark.parametrize("place", ["cpu", "disk"])
@plain_and_fast
@every_kind
def test_accelerate_offloads(name, fast, place, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, image = prepared(name, fast), procedural_image(128, 96)
    with torch.no_grad():
        expected = [out.clone() for out in model(image)]
        offloaded = copy.deepcopy(model)
        if place == "disk":
            accelerate.disk_offload(offloaded, str(tmp_path), execution_device="cpu")
        else:
            accelerate.cpu_offload(offloaded, execution_device="cpu")
        for _ in range(2):
            assert relative(offloaded(image), expected) < 1e-5


@plain_and_fast
@every_kind
def test_captum_attributes_to_whole_layers(name, fast):
    attr = pytest.importorskip("captum.attr")
    model, image = prepared(name, fast), procedural_image(512, 512)

    def score(x):
        return model(x)[3].mean((2, 3))

    layer = model.block1[0].mlp.fc2
    activation = attr.LayerActivation(score, layer).attribute(image)
    assert activation.shape == (1, 128 * 128, layer.out_features)
    cam = attr.LayerGradCam(score, model.block4[-1]).attribute(image, target=0)
    assert cam.abs().sum() > 0
