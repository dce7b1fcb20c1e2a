"""Features equal the authors', for every model: golden values, and an oracle from the paper."""

import numpy as np
import pytest
import reference
import torch
from pieces import set_band_bytes, set_tile_bytes
from procedural import (
    DATA,
    STATE_DICTS,
    build,
    build_procedural,
    procedural_image,
    procedural_tensor,
)

from pvt_mm import accelerate
from pvt_mm.backbones import ARCHS

GOLDEN = np.load(DATA / "official_features.npz")
GOLDEN_CASES = sorted({tuple(key.split("/")[:2]) for key in GOLDEN.files})
TOLERANCE = 2e-4  # float32, features of standard deviation 1 to 3


def features(model, image):
    with torch.no_grad():
        return model(image)


def assert_equal_to_reference(name, image, prepare=lambda model: model):
    model = prepare(build_procedural(name))
    expected = reference.features(model.state_dict(), ARCHS[name], image)
    actual = features(model, image)
    assert len(actual) == len(expected) == 4
    for stage, (ours, theirs) in enumerate(zip(actual, expected, strict=True), 1):
        assert ours.shape == theirs.shape, f"stage {stage}"
        assert (ours - theirs).abs().max() < TOLERANCE, f"stage {stage}"


@pytest.fixture(params=["plain", "accelerated", "tiles and bands"])
def prepare(request, monkeypatch):
    """Plain modules, their fast twins, and these as they are for large maps on AMD's processors."""
    if request.param == "tiles and bands":
        request.getfixturevalue("threads")
        set_tile_bytes(monkeypatch, 2**16, 2**16)
        set_band_bytes(monkeypatch, 2**16)

    def prepare(model):
        if request.param != "plain":
            recompute = request.param == "tiles and bands"
            assert not accelerate(model, recompute=recompute).plain
        return model

    return prepare


@pytest.mark.parametrize(("name", "size"), GOLDEN_CASES)
def test_golden_features(name, size, prepare):
    height, width = map(int, size.split("x"))
    outs = features(prepare(build_procedural(name)), procedural_image(height, width))
    for stage, out in enumerate(outs, 1):
        key = f"{name}/{size}/stage{stage}"
        assert list(out.shape) == GOLDEN[f"{key}/shape"].tolist()
        flat = out.contiguous().flatten().numpy()
        sample = flat[:: max(1, flat.size // 256)][:256]
        assert np.abs(sample - GOLDEN[f"{key}/sample"]).max() < TOLERANCE
        mean_std = np.array([flat.mean(), flat.std()])
        np.testing.assert_allclose(mean_std, GOLDEN[f"{key}/mean_std"], atol=1e-3)


def test_reference_equals_golden():
    """The oracle itself is held against the authors' values."""
    for name in ("pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"):
        shapes = {k: v.shape for k, v in build(name).state_dict().items()}
        state = {key: procedural_tensor(key, shape) for key, shape in shapes.items()}
        outs = reference.features(state, ARCHS[name], procedural_image(160, 256))
        for stage, out in enumerate(outs, 1):
            flat = out.flatten().numpy()
            sample = flat[:: max(1, flat.size // 256)][:256]
            assert np.abs(sample - GOLDEN[f"{name}/160x256/stage{stage}/sample"]).max() < TOLERANCE


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_gradients_equal_those_of_the_reference(name, prepare):
    model, image = prepare(build_procedural(name)).train(), procedural_image(96, 64)
    state = {k: v.detach().clone().requires_grad_() for k, v in model.state_dict().items()}
    expected = reference.features(state, ARCHS[name], image)
    actual = model(image)
    weights = [torch.randn(out.shape) / out[0].numel() for out in expected]
    for outs in (expected, actual):
        sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True)).backward()
    for key, parameter in model.named_parameters():
        theirs = state[key].grad
        assert (parameter.grad - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6, key


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_batches_equal_reference(name, prepare):
    """In bands each image attends to its own keys."""
    images = (scale * procedural_image(96, 64) for scale in (1, -0.5, 2))
    assert_equal_to_reference(name, torch.cat(list(images)), prepare)


@pytest.mark.parametrize("name", ARCHS)
def test_every_model_equals_reference(name):
    assert_equal_to_reference(name, procedural_image(75, 101))


@pytest.mark.parametrize("size", [(448, 448), (112, 448), (32, 32), (33, 250)], ids=str)
@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_sizes_equal_reference(name, size):
    """Any size; 112x448 has as many tokens as 224x224 and yet another layout."""
    assert_equal_to_reference(name, procedural_image(*size))


@pytest.mark.parametrize("name", ["pvt_small", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_low_contrast_input_equals_reference(name):
    """Small activations tell a norm with the wrong epsilon from one with the right."""
    assert_equal_to_reference(name, 1e-3 * procedural_image(64, 64))


@pytest.mark.parametrize("name", ARCHS)
def test_names_and_shapes_are_the_released_ones(name):
    official = STATE_DICTS[name]
    expected = {
        key: tuple(shape)
        for key, shape in official["classification"].items()
        if key not in official["backbone_only_absent"]
    }
    model = build(name)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(official["backbone_params_millions"], abs=0.01)
    assert ARCHS[name].params_m == pytest.approx(official["params_millions"], abs=0.06)


def test_a_few_names_as_literals():
    v1, v2 = build("pvt_tiny").state_dict(), build("pvt_v2_b2_li").state_dict()
    assert v1["pos_embed4"].shape == (1, 50, 512)
    assert v1["block1.0.attn.sr.weight"].shape == (64, 64, 8, 8)
    assert v1["block3.1.attn.kv.bias"].shape == (640,)
    assert v2["block4.2.mlp.dwconv.dwconv.weight"].shape == (2048, 1, 3, 3)
    assert v2["block4.2.attn.sr.weight"].shape == (512, 512, 1, 1)
    assert v2["norm4.bias"].shape == (512,)
