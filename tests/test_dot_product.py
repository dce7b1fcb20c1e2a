"""Attention in tiles: the numbers of PyTorch's own, and the rule for when there are tiles."""

import pytest
import torch
import torch.nn.functional as F
from pieces import set_tile_bytes

from pvt_mm.kernels.cpu import dot_product, linear
from pvt_mm.kernels.cpu.dot_product import attend

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def tiles(monkeypatch):
    """Make small tiles of small problems, whatever the processor; counts them."""
    made = []

    def counted(q, scaled_k):
        made.append(q.shape)
        return weights(q, scaled_k)

    weights = dot_product.attention_weights
    monkeypatch.setattr(dot_product, "attention_weights", counted)
    set_tile_bytes(monkeypatch, 4000, 3000)
    return made


def heads_side_by_side(batch, heads, tokens, channels):
    return torch.randn(batch, tokens, heads, channels).transpose(1, 2)


def draw(batch, heads, queries, keys, channels):
    torch.manual_seed(0)
    counts = (queries, keys, keys)
    return [heads_side_by_side(batch, heads, count, channels) for count in counts]


SHAPES = [(1, 1, 100, 20, 8), (2, 3, 77, 5, 4), (2, 2, 1, 9, 16), (1, 5, 33, 49, 12)]


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_give_pytorchs_numbers(tiles, shape):
    q, k, v = draw(*shape)
    with torch.no_grad():
        found = attend(q, k, v)
    expected = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert found.transpose(1, 2).is_contiguous(), "the output projection takes heads side by side"
    heads = shape[0] * shape[1]
    assert len(tiles) >= heads and len(tiles) % heads == 0
    assert sum(tile[1] for tile in tiles) == heads * shape[2]
    if shape[2] > 50:
        assert len(tiles) > heads, "a head has several"


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_through_tiles_are_pytorchs(tiles, shape):
    inputs = [x.requires_grad_() for x in draw(*shape)]
    grad = heads_side_by_side(*shape[:3], shape[4])
    found = torch.autograd.grad(attend(*inputs), inputs, grad)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = F.scaled_dot_product_attention(*exact)
    expected = torch.autograd.grad(out, exact, grad.double())
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.double(), other, atol=1e-4)
    assert len(tiles) > 0


def test_no_weight_is_kept_for_the_backward_pass(tiles):
    kept = []
    inputs = [x.requires_grad_() for x in draw(1, 1, 100, 20, 8)]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        attend(*inputs)
    assert sum(kept) == sum(x.numel() for x in inputs)


@pytest.mark.parametrize(
    "change",
    [
        *("nothing", "one thread", "bfloat16", "few queries", "few scores"),
        *("Intel", "dropout", "graph", "parameter"),
    ],
)
def test_when_there_are_tiles(monkeypatch, change):
    calls = []
    monkeypatch.setattr(dot_product, "mkl_is_half_as_fast", lambda: change != "Intel")
    monkeypatch.setattr(
        dot_product, "attend_in_tiles", lambda q, k, v: calls.append(1) or torch.zeros_like(q)
    )
    monkeypatch.setattr(linear, "is_recording", lambda: change == "graph")
    queries, keys = {"few queries": (500, 9000), "few scores": (600, 9)}.get(change, (600, 600))
    q, k, v = draw(1, 1, queries, keys, 4)
    if change == "bfloat16":
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    if change == "parameter":
        q = torch.nn.Parameter(q)  # stands for any subclass
    if change == "one thread":
        torch.set_num_threads(1)
    with torch.no_grad():
        attend(q, k, v, 0.1 if change == "dropout" else 0.0)
    assert len(calls) == (change == "nothing")


@pytest.mark.parametrize(
    ("vendor", "family", "capability", "mkl", "slow", "half"),
    [
        ("AuthenticAMD", 26, "AVX512", True, True, True),  # Zen 5
        ("AuthenticAMD", 25, "AVX512", True, True, False),  # Zen 4
        ("AuthenticAMD", 25, "AVX2", True, False, False),  # Zen 3
        ("AuthenticAMD", 26, "AVX512", False, False, False),
        ("GenuineIntel", 6, "AVX512", True, False, False),
        (None, 26, "AVX512", True, False, False),
    ],
)
def test_mkl_is_slow_on_wide_processors_of_others(
    monkeypatch, tmp_path, vendor, family, capability, mkl, slow, half
):
    info = tmp_path / "cpuinfo"
    if vendor:
        info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\n")
    monkeypatch.setattr(linear, "CPU_INFO", info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(linear, "mkl_is_slow", linear.mkl_is_slow.__wrapped__)
    assert linear.mkl_is_slow() == slow
    assert linear.mkl_is_half_as_fast.__wrapped__() == half
