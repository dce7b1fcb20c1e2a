"""Arguments and behaviour of the backbones in training, freezing, copying and exporting."""

import copy
import pickle

import pytest
import torch
from procedural import build, build_procedural, procedural_image

from pvt_mm.backbones import ARCHS, PVT, PVTv2
from pvt_mm.backbones.block import DropPath

SMALL = ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"]
IMAGE = procedural_image(64, 96)


def gradients(model, image):
    """Gradients of a fixed weighted sum of all features, by parameter name."""
    model.zero_grad()
    loss = sum((f * torch.linspace(-1, 1, f.shape[1])[:, None, None]).mean() for f in model(image))
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ARCHS)
def test_every_parameter_gets_a_finite_gradient(name):
    model = build(name, drop_path_rate=0.1)
    model.init_weights()
    grads = gradients(model, procedural_image(64, 64))
    without = {key for key, _ in model.named_parameters()} - set(grads)
    assert not without
    for key, grad in grads.items():
        assert grad.isfinite().all(), key
        assert grad.any(), key


@pytest.mark.parametrize("name", SMALL)
def test_channels_follow_in_channels_and_out_indices(name):
    dims = ARCHS[name].embed_dims
    full = build_procedural(name)(IMAGE)
    assert [f.shape for f in full] == [
        (1, dims[i], 64 // 2 ** (i + 2), 96 // 2 ** (i + 2)) for i in range(4)
    ]
    part = build_procedural(name, out_indices=(1, 2))
    assert not any(key.startswith(("patch_embed4", "block4", "norm4")) for key in part.state_dict())
    for ours, expected in zip(part(IMAGE), full[1:3], strict=True):
        torch.testing.assert_close(ours, expected)
    (last,) = build_procedural(name, out_indices=3)(IMAGE)
    torch.testing.assert_close(last, full[3])
    five = build(name, in_channels=5)(procedural_image(64, 64, channels=5))
    assert len(five) == 4


@pytest.mark.parametrize("name", ARCHS)
def test_features_are_contiguous(name):
    """mmcv's RoIAlign reads whatever lies in memory, as if it were."""
    for images in (procedural_image(64, 64), procedural_image(64, 64, batch=2)):
        images = images.to(memory_format=torch.channels_last)
        assert all(f.is_contiguous() for f in build(name)(images))


@pytest.mark.parametrize("name", SMALL)
def test_batch_equals_single_images(name):
    model = build_procedural(name)
    images = procedural_image(64, 64, batch=2)
    together = model(images)
    for index in range(2):
        for a, b in zip(together, model(images[index : index + 1]), strict=True):
            torch.testing.assert_close(a[index : index + 1], b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_checkpointing_gives_the_same_gradients(name):
    kwargs = {"drop_path_rate": 0.2, "drop_rate": 0.1, "attn_drop_rate": 0.1}
    plain = build_procedural(name, **kwargs).train()
    saving = build_procedural(name, with_cp=True, **kwargs).train()
    torch.manual_seed(1)
    expected = gradients(plain, IMAGE)
    torch.manual_seed(1)
    actual = gradients(saving, IMAGE)
    assert actual.keys() == expected.keys()
    for key, grad in expected.items():
        torch.testing.assert_close(actual[key], grad, msg=key)


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2, 4])
@pytest.mark.parametrize("name", SMALL)
def test_frozen_stages(name, frozen):
    model = build(name, frozen_stages=frozen, drop_path_rate=0.2).train()
    if frozen < 4:
        grads = gradients(model, IMAGE)
    else:
        assert not any(f.requires_grad for f in model(IMAGE))
        grads = {}
    for key, parameter in model.named_parameters():
        stage = int(key.split(".")[0][-1])
        assert parameter.requires_grad == (stage > frozen), key
        assert (key in grads) == (stage > frozen), key
    for key, child in model.named_children():
        if key[-1].isdigit():
            expected = int(key[-1]) > frozen
            assert all(module.training == expected for module in child.modules()), key


def test_norm_eval_keeps_norms_in_eval_mode():
    model = build("pvt_v2_b0", norm_eval=True).train()
    modes = {type(m).__name__: m.training for m in model.modules()}
    assert modes["LayerNorm"] is False
    assert modes["Conv2d"] is True


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_autocast_is_close_to_float32(name):
    model = build_procedural(name)
    with torch.no_grad():
        expected = model(IMAGE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = model(IMAGE)
    for ours, exact in zip(actual, expected, strict=True):
        assert (ours.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_weights(name):
    outs = build(name).bfloat16()(IMAGE.bfloat16())
    assert {f.dtype for f in outs} == {torch.bfloat16}


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", SMALL)
def test_copies_are_equal_and_independent(name, clone):
    model = build_procedural(name)
    twin = clone(model)
    before = model(IMAGE)
    for a, b in zip(twin(IMAGE), before, strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    for a, b in zip(model(IMAGE), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", SMALL)
def test_exports_with_torch_export(name):
    model = build_procedural(name)
    program = torch.export.export(model, (IMAGE,))
    for a, b in zip(program.module()(IMAGE), model(IMAGE), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SMALL)
def test_training_and_eval_differ_by_drop_path_only(name):
    model = build_procedural(name, drop_path_rate=0.5)
    expected = model(IMAGE)
    model.train()
    assert not torch.equal(model(IMAGE)[3], expected[3])
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_path_rate = 0.0
    assert torch.equal(model(IMAGE)[3], expected[3])


def test_drop_path_rises_linearly_over_all_blocks():
    model = PVTv2("b0", drop_path_rate=0.7)
    rates = [m.drop_path_rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.7 * i / 7 for i in range(8)], abs=1e-6)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(4000, 2, 3))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample[:, 0].unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.05)


def test_initial_weights_follow_the_authors():
    torch.manual_seed(0)
    v1, v2 = PVT("tiny"), PVTv2("b1")
    v1.init_weights()
    v2.init_weights()
    assert v1.block4[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert v1.pos_embed1.std().item() == pytest.approx(0.02, rel=0.02)
    assert not v1.block4[0].mlp.fc1.bias.any()
    fan_out = 3 * 3 * 512
    assert v2.patch_embed4.proj.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    assert v2.block1[0].mlp.dwconv.dwconv.weight.std().item() == pytest.approx(
        (2 / 9) ** 0.5, rel=0.05
    )


def test_pretrain_img_size_lays_out_the_position_embedding():
    model = PVT("tiny", pretrain_img_size=(64, 128))
    assert model.pos_embed1.shape == (1, 16 * 32, 64)
    assert model.pos_embed4.shape == (1, 2 * 4 + 1, 512)


def test_custom_arch():
    arch = {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 4]}
    for model in (PVT(arch), PVTv2(arch), PVTv2({**arch, "linear_sra": True})):
        assert [f.shape[1] for f in model(IMAGE)] == [16, 32, 48, 64]


def test_linear_sra_on_any_arch():
    assert PVTv2("b2", linear_sra=True).state_dict().keys() == PVTv2("b2_li").state_dict().keys()
    assert PVTv2("b2_li", linear_sra=False).state_dict().keys() == PVTv2("b2").state_dict().keys()


@pytest.mark.parametrize(
    ("cls", "kwargs", "error", "words"),
    [
        (PVT, {"arch": "b2"}, ValueError, "arch='b2' is unknown; known are tiny, small"),
        (PVTv2, {"arch": "small"}, ValueError, "known are b0, b1, b2, b2_li, b3"),
        (PVT, {"arch": 3}, TypeError, "arch must be a name or a dict, got int"),
        (PVT, {"arch": {"depths": [1] * 4}}, ValueError, r"missing keys \['embed_dims'\]"),
        (
            PVT,
            {"arch": {"depths": [1] * 4, "embed_dims": [64] * 4, "width": 1}},
            ValueError,
            r"unknown keys \['width'\]",
        ),
        (
            PVTv2,
            {"arch": {"depths": [1] * 3, "embed_dims": [40] * 4}},
            ValueError,
            r"arch\['depths'\] must hold 4 positive numbers",
        ),
        (
            PVTv2,
            {"arch": {"depths": [1.5] * 4, "embed_dims": [40] * 4}},
            TypeError,
            r"arch\['depths'\] must be a list of 4 numbers",
        ),
        (
            PVTv2,
            {"arch": {"depths": [1] * 4, "embed_dims": [33] * 4}},
            ValueError,
            "multiples of arch",
        ),
        (
            PVTv2,
            {"arch": {"depths": [1] * 4, "embed_dims": [40] * 4, "linear_sra": 1}},
            TypeError,
            "linear_sra",
        ),
        (PVT, {"in_channels": 0}, ValueError, "in_channels must be at least 1, got 0"),
        (PVT, {"in_channels": "3"}, TypeError, "in_channels must be an int, got '3'"),
        (PVT, {"out_indices": (0, 4)}, ValueError, "out_indices must be from 0 to 3, got 4"),
        (PVT, {"out_indices": (2, 1)}, ValueError, "rising stages"),
        (PVT, {"out_indices": ()}, ValueError, "rising stages"),
        (PVT, {"out_indices": 1.0}, TypeError, "out_indices must be an int or a list"),
        (PVT, {"drop_rate": 1.0}, ValueError, "drop_rate must be at least 0 and below 1, got 1"),
        (PVT, {"attn_drop_rate": -0.1}, ValueError, "attn_drop_rate"),
        (PVT, {"drop_path_rate": "0.1"}, TypeError, "drop_path_rate must be a number"),
        (PVT, {"frozen_stages": 5}, ValueError, "frozen_stages must be from -1 to 4, got 5"),
        (PVT, {"frozen_stages": True}, TypeError, "frozen_stages must be an int"),
        (PVT, {"norm_eval": "yes"}, TypeError, "norm_eval must be True or False, got 'yes'"),
        (PVT, {"with_cp": 1}, TypeError, "with_cp must be True or False, got 1"),
        (PVT, {"pretrain_img_size": 16}, ValueError, "pretrain_img_size must be at least 32"),
        (PVT, {"pretrain_img_size": (1, 2, 3)}, TypeError, "pretrain_img_size must be an int or"),
        (PVTv2, {"linear_sra": 1}, TypeError, "linear_sra must be True, False or None, got 1"),
        (PVTv2, {"pretrain_img_size": 224}, TypeError, "pretrain_img_size"),
    ],
)
def test_wrong_arguments(cls, kwargs, error, words):
    with pytest.raises(error, match=words):
        cls(**kwargs)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 31, 64), "at least 32x32 pixels, got 31x64"),
        ((1, 3, 64, 16), "at least 32x32 pixels, got 64x16"),
        ((1, 1, 64, 64), r"input must be \(B, 3, h, w\), got \(1, 1, 64, 64\)"),
        ((3, 64, 64), r"input must be \(B, 3, h, w\)"),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_wrong_inputs(name, shape, words):
    with pytest.raises(ValueError, match=words):
        build(name)(torch.zeros(shape))
