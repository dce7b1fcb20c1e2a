"""Attention in tiles: the numbers of PyTorch's own, and the rule for when there are tiles."""

import pytest
import torch
import torch.nn.functional as F
from pieces import set_tile_bytes

from pvt_mm.kernels.cpu import dot_product, linear, processor
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
    set_tile_bytes(monkeypatch, 2000, 1500)
    return made


@pytest.fixture
def processor_is(monkeypatch, tmp_path):
    """Give the processor other properties; none before they are told."""
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr("pvt_mm.devices.CPU_INFO", info)
    for name in ("mkl_is_slow", "fused_attention_is_slow"):
        monkeypatch.setattr(processor, name, getattr(processor, name).__wrapped__)
    return info.write_text


def heads_side_by_side(batch, heads, tokens, channels):
    return torch.randn(batch, tokens, heads, channels).transpose(1, 2)


def draw(batch, heads, queries, keys, channels, dtype=torch.float32):
    torch.manual_seed(0)
    counts = (queries, keys, keys)
    return [heads_side_by_side(batch, heads, count, channels).to(dtype) for count in counts]


def difference(found, expected):
    """The largest one, as a share of the largest number."""
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHAPES = [(1, 1, 100, 20, 8), (2, 3, 77, 5, 4), (2, 2, 1, 9, 16), (1, 5, 33, 49, 12)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_give_pytorchs_numbers(tiles, shape, dtype):
    q, k, v = draw(*shape, dtype)
    with torch.no_grad():
        found = attend(q, k, v)
    expected = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, atol=TOLERANCES[dtype])
    assert found.transpose(1, 2).is_contiguous(), "the output projection takes heads side by side"
    heads = shape[0] * shape[1]
    assert len(tiles) >= heads and len(tiles) % heads == 0
    assert sum(tile[1] for tile in tiles) == heads * shape[2]
    if shape[2] > 50:
        assert len(tiles) > heads, "a head has several"


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_through_tiles_are_pytorchs(tiles, shape, dtype):
    inputs = [x.requires_grad_() for x in draw(*shape, dtype)]
    grad = heads_side_by_side(*shape[:3], shape[4]).to(dtype)
    found = torch.autograd.grad(attend(*inputs), inputs, grad)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = F.scaled_dot_product_attention(*exact)
    expected = torch.autograd.grad(out, exact, grad.double())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert difference(one, other) < TOLERANCES[dtype]
    assert len(tiles) > 0


def test_many_tiles_add_up_in_float32(tiles):
    inputs = [x.requires_grad_() for x in draw(1, 1, 3000, 4, 8, torch.bfloat16)]
    found = torch.autograd.grad(attend(*inputs).sum(), inputs)
    assert len(tiles) > 50
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(F.scaled_dot_product_attention(*exact).sum(), exact)
    assert difference(found[2], expected[2]) < 5e-3  # hundreds of weights each, all positive


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
        *("nothing", "one thread", "float64", "few queries", "few scores"),
        *("fast fused", "dropout", "graph", "parameter"),
    ],
)
def test_when_there_are_tiles(monkeypatch, change):
    calls = []
    monkeypatch.setattr(
        dot_product, "fused_attention_is_slow", lambda dtype: change != "fast fused"
    )
    monkeypatch.setattr(
        dot_product, "attend_in_tiles", lambda q, k, v: calls.append(1) or torch.zeros_like(q)
    )
    monkeypatch.setattr(linear, "is_recording", lambda: change == "graph")
    queries, keys = {"few queries": (500, 9000), "few scores": (600, 9)}.get(change, (600, 600))
    q, k, v = draw(1, 1, queries, keys, 4)
    if change == "float64":
        q, k, v = q.double(), k.double(), v.double()
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
    processor_is, monkeypatch, vendor, family, capability, mkl, slow, half
):
    if vendor:
        processor_is(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert processor.mkl_is_slow() == slow
    assert processor.fused_attention_is_slow(torch.float32) == half
    assert not processor.fused_attention_is_slow(torch.float64)


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ("avx512f avx512_bf16", True),  # Zen 4
        ("avx512f avx512_bf16 amx_bf16 amx_tile", False),  # Sapphire Rapids
        ("avx512f", False),  # computed in float32 throughout
        ("asimd bf16", False),  # Arm's, not measured
    ],
)
def test_fused_attention_is_slow_in_bfloat16_without_amx(processor_is, flags, slow):
    processor_is(f"processor\t: 0\nflags\t: fpu {flags} sse\n")
    assert processor.fused_attention_is_slow(torch.bfloat16) == slow
