"""SRA and linear SRA as modules of their own."""

import pytest
import reference
import torch

from pvt_mm.backbones import LinearSpatialReductionAttention, SpatialReductionAttention
from pvt_mm.registry import MODELS


def naive(attn, tokens, hw, sr_ratio=1, linear_sra=False):
    state = {f"attn.{key}": value for key, value in attn.state_dict().items()}
    heads = attn.num_heads
    return reference.attention(tokens, *hw, state, "attn", heads, sr_ratio, linear_sra)


@pytest.mark.parametrize("hw", [(8, 8), (9, 13), (4, 30)], ids=str)
@pytest.mark.parametrize(("heads", "sr_ratio"), [(1, 4), (2, 2), (4, 1)])
def test_sra_equals_naive_attention(heads, sr_ratio, hw):
    torch.manual_seed(0)
    attn = SpatialReductionAttention(32, heads, sr_ratio).eval()
    tokens = torch.randn(2, hw[0] * hw[1], 32)
    with torch.no_grad():
        torch.testing.assert_close(attn(tokens, hw), naive(attn, tokens, hw, sr_ratio))


@pytest.mark.parametrize("hw", [(14, 7), (9, 13), (2, 3)], ids=str)
def test_linear_sra_equals_naive_attention(hw):
    torch.manual_seed(0)
    attn = LinearSpatialReductionAttention(32, 4).eval()
    tokens = torch.randn(2, hw[0] * hw[1], 32)
    with torch.no_grad():
        expected = naive(attn, tokens, hw, linear_sra=True)
        torch.testing.assert_close(attn(tokens, hw), expected)
        assert attn.reduce(tokens, hw).shape == (2, 49, 32)


@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_gradients_equal_naive_attention(sr_ratio):
    torch.manual_seed(0)
    attn = SpatialReductionAttention(16, 2, sr_ratio)
    tokens = torch.randn(1, 24, 16, requires_grad=True)
    weight = torch.randn(1, 24, 16)
    (attn(tokens, (4, 6)) * weight).sum().backward()
    ours = {name: p.grad.clone() for name, p in attn.named_parameters()}
    ours_input, tokens.grad = tokens.grad, None

    leaves = {name: p.detach().requires_grad_() for name, p in attn.named_parameters()}
    state = {f"attn.{name}": p for name, p in leaves.items()}
    out = reference.attention(tokens, 4, 6, state, "attn", 2, sr_ratio, False)
    (out * weight).sum().backward()
    torch.testing.assert_close(ours_input, tokens.grad)
    for name, leaf in leaves.items():
        torch.testing.assert_close(ours[name], leaf.grad, msg=name, rtol=1e-4, atol=1e-5)


def test_attention_dropout_acts_in_training_only():
    attn = SpatialReductionAttention(16, 2, attn_drop_rate=0.5)
    tokens = torch.randn(1, 16, 16)
    assert not torch.equal(attn(tokens, (4, 4)), attn(tokens, (4, 4)))
    attn.eval()
    assert torch.equal(attn(tokens, (4, 4)), attn(tokens, (4, 4)))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_heads": 3}, "embed_dims=32 and num_heads=3"),
        ({"num_heads": 2, "sr_ratio": 0}, "sr_ratio must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": 2, "attn_drop_rate": 1.5}, "attn_drop_rate must be at least 0 and below 1"),
        ({"num_heads": 2, "proj_drop_rate": -1}, "proj_drop_rate must be at least 0 and below 1"),
    ],
)
def test_wrong_sra_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        SpatialReductionAttention(32, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_heads": "2"}, "num_heads must be an int, got '2'"),
        ({"num_heads": 2, "sr_ratio": 2.0}, "sr_ratio must be an int, got 2.0"),
        ({"num_heads": 2, "attn_drop_rate": None}, "attn_drop_rate must be a number, got None"),
    ],
)
def test_sra_arguments_of_the_wrong_type(kwargs, words):
    with pytest.raises(TypeError, match=words):
        SpatialReductionAttention(32, **kwargs)


def test_wrong_pool_size():
    with pytest.raises(ValueError, match="pool_size must be at least 1, got 0"):
        LinearSpatialReductionAttention(32, 2, pool_size=0)


def test_wrong_hw():
    attn = SpatialReductionAttention(32, 2, sr_ratio=4)
    with pytest.raises(ValueError, match=r"hw=\(4, 5\) does not match the 16 tokens"):
        attn(torch.randn(1, 16, 32), (4, 5))
    with pytest.raises(ValueError, match="2x8 tokens is smaller .* sr_ratio=4"):
        attn(torch.randn(1, 16, 32), (2, 8))


@pytest.mark.parametrize("name", ["SpatialReductionAttention", "LinearSpatialReductionAttention"])
def test_built_by_type(name):
    attn = MODELS.build({"type": f"pvt_mm.{name}", "embed_dims": 32, "num_heads": 2})
    assert attn(torch.randn(1, 64, 32), (8, 8)).shape == (1, 64, 32)
