"""What makes the fast blocks lean: bands of rows, recomputed activations, linear layers."""

import pytest
import torch
import torch.nn.functional as F
from pieces import set_band_bytes

from pvt_mm import accelerate
from pvt_mm.backbones.attention import SpatialReductionAttention
from pvt_mm.backbones.block import Block
from pvt_mm.backbones.mlp import ConvMlp, Mlp
from pvt_mm.kernels.cpu import linear as linear_module
from pvt_mm.kernels.cpu import recompute as recompute_module
from pvt_mm.kernels.cpu.bands import cut_in_bands
from pvt_mm.kernels.cpu.linear import linear
from pvt_mm.kernels.cpu.recompute import linear_of_gelu


def fast(module, recompute=True):
    """Accelerate a module, all of it."""
    assert not accelerate(module, recompute=recompute).plain
    return module


MLPS = {
    "v1": lambda **options: fast(Mlp(8, 24), **options),
    "v2": lambda **options: fast(ConvMlp(8, 24), **options),
    "v2, linear SRA": lambda **options: fast(ConvMlp(8, 24, relu=True), **options),
}
# (batch, map) pairs: flat, high, square, larger than a band in each direction.
MAPS = ((1, (7, 5)), (2, (13, 9)), (3, (1, 40)), (2, (40, 1)), (1, (32, 6)))


def expected_mlp(mlp, tokens, hw):
    """The paper's formula, on NCHW maps, without any of the package's code."""
    hidden = tokens @ mlp.fc1.weight.t() + mlp.fc1.bias
    if isinstance(mlp, ConvMlp):
        conv = mlp.dwconv.dwconv
        hidden = hidden.relu() if isinstance(mlp.relu, torch.nn.ReLU) else hidden
        maps = hidden.transpose(1, 2).reshape(tokens.shape[0], -1, *hw)
        maps = F.conv2d(maps, conv.weight, conv.bias, padding=1, groups=maps.shape[1])
        hidden = maps.flatten(2).transpose(1, 2)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ mlp.fc2.weight.t() + mlp.fc2.bias


@pytest.fixture(params=[1, 2048, 1 << 40], ids=["narrow bands", "bands", "whole"])
def band_bytes(request, monkeypatch):
    set_band_bytes(monkeypatch, request.param)
    return request.param


@pytest.fixture(params=[False, True], ids=["MKL's gradients", "oneDNN's gradients"])
def gradients(request, monkeypatch):
    monkeypatch.setattr(linear_module, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(linear_module, "mkl_is_slow", lambda: request.param)


@pytest.mark.parametrize("version", MLPS)
@pytest.mark.parametrize("batch, hw", MAPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("recompute", [True, False])
def test_mlp_and_its_gradients_follow_the_formula(
    version, batch, hw, dtype, recompute, band_bytes, gradients, threads
):
    torch.manual_seed(0)
    mlp = MLPS[version](recompute=recompute).to(dtype)
    tokens = torch.randn(batch, hw[0] * hw[1], 8, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(tokens)
    inputs = (tokens, *mlp.parameters())
    expected = expected_mlp(mlp, tokens, hw)
    with torch.no_grad():
        torch.testing.assert_close(mlp(tokens, hw), expected)
    made = mlp(tokens, hw)
    torch.testing.assert_close(made, expected)
    for ours, theirs in zip(
        torch.autograd.grad(made, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("version", MLPS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_mlp_leaves_its_input_alone(version, mode, band_bytes):
    tokens = torch.randn(2, 13 * 9, 8)
    before = tokens.clone()
    with mode():
        MLPS[version]()(tokens, (13, 9))
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("version", MLPS)
def test_frozen_parameters_get_no_gradient(version, band_bytes):
    mlp = MLPS[version]()
    mlp.fc2.requires_grad_(False)
    tokens = torch.randn(1, 32 * 6, 8)
    mlp(tokens, (32, 6)).sum().backward()
    assert mlp.fc1.weight.grad.abs().sum() > 0
    assert mlp.fc2.weight.grad is None and mlp.fc2.bias.grad is None


@pytest.mark.parametrize("version", MLPS)
@pytest.mark.parametrize("recompute", [True, False])
def test_autocast_holds_in_the_backward_pass_too(version, recompute, band_bytes):
    torch.manual_seed(0)
    mlp = MLPS[version](recompute=recompute)
    tokens = torch.randn(2, 32 * 6, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        made = mlp(tokens, (32, 6))
    assert made.dtype == torch.bfloat16
    inputs = (tokens, *mlp.parameters())
    grads = torch.autograd.grad(made.float().square().mean(), inputs)
    expected = expected_mlp(mlp, tokens, (32, 6))
    exact = torch.autograd.grad(expected.square().mean(), inputs)
    for ours, theirs in zip(grads, exact, strict=True):
        assert ours.dtype == torch.float32
        # bfloat16 holds eight bits; roundings of either sign add up to a few times that.
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("trained", [(True, True, True), (False, True, True), (True, False, False)])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_of_a_gelu_has_autograds_gradients(amp, trained, biased, monkeypatch, gradients):
    torch.manual_seed(0)
    monkeypatch.setattr(recompute_module, "SMALL_BYTES", 0)
    values = torch.randn(2, 40, 24), torch.randn(8, 24), torch.randn(8)
    leaves = [value.requires_grad_(wants) for value, wants in zip(values, trained, strict=True)]
    tokens, *layer = leaves if biased else (*leaves[:2], None)
    wanted = [leaf for leaf in (tokens, *layer) if leaf is not None and leaf.requires_grad]
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        tokens = tokens.to(torch.bfloat16 if amp else torch.float32)  # as fc1 makes them
        made, expected = linear_of_gelu(tokens, layer), linear(F.gelu(tokens), *layer)
    bounds = {"rtol": 0.016, "atol": 0.016} if amp else {}
    torch.testing.assert_close(made, expected, **bounds)
    grad = torch.randn_like(made)
    for ours, theirs in zip(
        torch.autograd.grad(made, wanted, grad),
        torch.autograd.grad(expected, wanted, grad),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, **bounds)


@pytest.mark.parametrize("recompute", [True, False])
def test_what_a_large_map_keeps_for_the_backward_pass(recompute, monkeypatch):
    set_band_bytes(monkeypatch, 24 * 6 * 4 * 8)  # eight rows
    mlp, tokens = fast(ConvMlp(8, 24), recompute), torch.randn(1, 32 * 6, 8, requires_grad=True)
    wide = {}

    def keep(tensor):
        if 24 in tensor.shape and tensor.numel() >= 24 * 6 * 8:
            wide[tensor.untyped_storage().data_ptr()] = tensor.numel() // 24
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = mlp(tokens, (32, 6))
    rows = sum(wide.values()) // 6
    if recompute:
        assert rows == 32 + 6, "three borders of bands, with a row of halo on either side"
    else:
        assert rows == 2 * 32, "what the convolution and the GELU were given"
    out.sum().backward()


@pytest.mark.parametrize("version", MLPS)
def test_dropout_works_on_a_large_map_too(version, monkeypatch):
    set_band_bytes(monkeypatch, 2048)
    torch.manual_seed(0)
    mlp, tokens = MLPS[version](), torch.randn(1, 32 * 6, 8)
    mlp.drop.p = 0.5
    out = mlp(tokens, (32, 6))
    assert (out == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    # The bias of fc2 reaches every channel that was kept, doubled; a second draw would keep others.
    kept = torch.autograd.grad(out.sum(), mlp.fc2.bias)[0]
    torch.testing.assert_close(kept, 2 * (out != 0).float().sum((0, 1)))
    assert torch.equal(mlp.eval()(tokens, (32, 6)), mlp(tokens, (32, 6)))


def test_autocast_keeps_the_sum_of_all_branches_in_float32():
    block = fast(Block(8, SpatialReductionAttention(8, 1), Mlp(8, 24))).eval()
    tokens = torch.randn(1, 12, 8)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode(), torch.autocast("cpu", torch.bfloat16):
            assert block(tokens, (3, 4)).dtype == torch.float32


def block_in_bands(monkeypatch):
    """A block, a map that it refines in bands, and the tokens its attention gets at a time."""
    set_band_bytes(monkeypatch, 2048)
    torch.manual_seed(0)
    attn = SpatialReductionAttention(8, 2, sr_ratio=2)
    block, asked = fast(Block(8, attn, ConvMlp(8, 24), 0.5)), []
    mix = attn.mix
    monkeypatch.setattr(attn, "mix", lambda tokens, k, v: asked.append(tokens) or mix(tokens, k, v))
    return block, torch.randn(2, 32 * 6, 8), asked


def test_block_refines_a_large_map_band_by_band_and_leaves_its_input_alone(monkeypatch):
    block, tokens, asked = block_in_bands(monkeypatch)
    block.eval()
    before, whole = tokens.clone(), block(tokens, (32, 6))
    assert [one.shape[1] for one in asked] == [32 * 6], "with a gradient"
    asked.clear()
    with torch.no_grad():
        torch.testing.assert_close(block(tokens, (32, 6)), whole)
    rows = [one.shape[1] // 6 for one in asked]
    assert rows == 2 * [5, 5, 5, 5, 5, 5, 2], "one image after the other"
    assert torch.equal(tokens, before)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made = block(tokens, (32, 6))
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, whole, rtol=0.02, atol=0.02)


def test_drop_path_takes_whole_samples_without_a_gradient_too(monkeypatch):
    block, tokens, asked = block_in_bands(monkeypatch)
    with torch.no_grad():
        block.train()(tokens, (32, 6))
    assert [one.shape[:2] for one in asked] == [(2, 32 * 6)]


@pytest.mark.parametrize("part", ["attn", "attn.q", "norm1", "mlp"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_see_whole_maps_once(part, kind, monkeypatch):
    block, tokens, _ = block_in_bands(monkeypatch)
    seen = []
    getattr(block.get_submodule(part), kind)(lambda module, inputs, *_: seen.append(inputs[0]))
    with torch.no_grad():
        block.eval()(tokens, (32, 6))
    assert [one.shape for one in seen] == [tokens.shape]


def test_block_takes_any_attention(monkeypatch):
    set_band_bytes(monkeypatch, 2048)

    class Nothing(torch.nn.Module):
        def forward(self, tokens, hw):
            return torch.zeros_like(tokens)

    tokens, mlp = torch.randn(1, 32 * 6, 8), Mlp(8, 24)
    block = Block(8, Nothing(), mlp).eval()
    assert accelerate(block).plain == {"": "attn is a Nothing"}
    with torch.no_grad():
        made = block(tokens, (32, 6))
        norm = F.layer_norm(tokens, (8,), eps=1e-6)
        torch.testing.assert_close(made, tokens + expected_mlp(mlp, norm, (32, 6)))


@pytest.mark.parametrize("halo", [0, 1])
@pytest.mark.parametrize("height, width", [(1, 1), (5, 3), (64, 7), (7, 64)])
def test_bands_make_every_row_once_and_read_their_neighbours(halo, height, width, monkeypatch):
    set_band_bytes(monkeypatch, 700)
    tokens = torch.arange(2 * height * width).view(2, -1, 1).float()
    made = torch.zeros_like(tokens)
    for band in cut_in_bands(tokens, (height, width), 4, halo):
        band.made(made).add_(1)
        rows = band.read(tokens).view(-1, width)[:, 0] // width - band.image * height
        first, last = max(band.start - halo, 0), min(band.stop + halo, height) - 1
        assert (rows[0], rows[-1]) == (first, last)
        assert torch.equal(band.without_halo(band.read(tokens)), band.made(tokens))
    assert torch.equal(made, torch.ones_like(made))


@pytest.mark.parametrize("convolved", [True, False])
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_linear_layer(threads, dtype, bias, convolved, monkeypatch):
    monkeypatch.setattr(linear_module, "mkl_is_slow", lambda: convolved)
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 10, bias=bias).to(dtype)
    tokens = torch.randn(2, 15, 6, dtype=dtype)
    made = linear(tokens, layer.weight, layer.bias)
    strided = linear(tokens[:, 3:9], layer.weight, layer.bias)
    expected = F.linear(tokens, layer.weight, layer.bias)
    assert made.shape == expected.shape and made.is_contiguous()
    near = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}  # eight bits
    torch.testing.assert_close(made, expected, **near)
    torch.testing.assert_close(strided, expected[:, 3:9], **near)


def test_linear_takes_one_image_without_a_batch():
    weight = torch.randn(4, 3)
    torch.testing.assert_close(linear(torch.ones(5, 3), weight), weight.sum(1).expand(5, 4))


def test_compiled_and_traced_graphs_have_no_loop_over_bands(monkeypatch):
    set_band_bytes(monkeypatch, 2048)
    mlp, tokens = fast(ConvMlp(8, 24)).requires_grad_(False), torch.randn(1, 32 * 6, 8)
    with torch.no_grad():
        traced = torch.jit.trace(lambda tokens: mlp(tokens, (32, 6)), tokens)
    kinds = [node.kind() for node in traced.inlined_graph.nodes()]
    assert kinds.count("aten::_convolution") == 1 and kinds.count("aten::linear") == 2
