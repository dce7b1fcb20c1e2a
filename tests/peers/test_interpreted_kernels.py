"""The Triton kernels in Triton's interpreter, which needs no GPU."""

import os
import sys
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("Triton is imported already: run this file by itself")
os.environ["TRITON_INTERPRET"] = "1"

from pvt_mm.kernels.gpu import dwconv_gelu, launch
from pvt_mm.kernels.gpu.ops import dwconv_gelu_backward_op, dwconv_gelu_op

# By its name: the package's attribute of that name is the function.
MODULE = import_module("pvt_mm.kernels.gpu.dwconv_gelu")
SHAPES = [  # B, H, W, E: single tokens and rows, odd sides, several strips and channel blocks
    (1, 1, 1, 3),
    (2, 1, 7, 8),
    (1, 7, 1, 64),
    (3, 5, 3, 70),
    (1, 6, 17, 130),
    (2, 5, 9, 5),
]
F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64


@pytest.fixture(autouse=True)
def poison():
    """Fill fresh memory with NaN, so that what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(shape, dtype=F32, weight_dtype=F32):
    batch, height, width, channels = shape
    tokens = torch.randn(batch, height * width, channels).to(dtype)
    weight, bias = torch.randn(channels, 1, 3, 3) / 3, torch.randn(channels)
    leaves = tokens, weight.to(weight_dtype), bias.to(weight_dtype)
    return [leaf.requires_grad_() for leaf in leaves]


def expected(leaves, grad, hw):
    """Result and gradients by PyTorch's operators, in float64 on a plain NCHW map."""
    tokens, weight, bias = (leaf.detach().double().requires_grad_() for leaf in leaves)
    batch, _, channels = tokens.shape
    maps = tokens.permute(0, 2, 1).reshape(batch, channels, *hw).contiguous()
    maps = F.gelu(F.conv2d(maps, weight, bias, padding=1, groups=channels))
    result = maps.reshape(batch, channels, -1).permute(0, 2, 1)
    return result, *torch.autograd.grad(result, (tokens, weight, bias), grad.double())


def check(leaves, hw, grad=None, close=(1e-5,) * 4):
    """Compare to the largest expected value, the result and the three gradients."""
    result = dwconv_gelu_op(*leaves, *hw)
    grad = torch.randn_like(result) if grad is None else grad
    got = (result, *torch.autograd.grad(result, leaves, grad))
    for name, a, b, tolerance in zip(
        ["result", "tokens", "weight", "bias"], got, expected(leaves, grad, hw), close, strict=True
    ):
        error = (a.double() - b).abs().max() / b.abs().max()
        assert error <= tolerance, f"{name}: {error}"  # NaN fails too
    for leaf, a in zip((leaves[0], *leaves), got, strict=True):
        assert a.dtype == leaf.dtype and a.shape == leaf.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_float32(shape):
    check(inputs(shape), shape[1:3])


def test_long_strips(monkeypatch):
    monkeypatch.setattr(launch, "PROGRAMS", 1)
    check(inputs((1, 33, 3, 5)), (33, 3))  # strips of 32 rows and of one


# Half a unit in the last place of the largest value, for what is rounded once; the tokens' gradient
# is rounded twice, as in PyTorch; the sums over tokens are float32 where the weights are. A whole
# unit for bfloat16, which the interpreter truncates; a GPU rounds (see test_kernels.py).
@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "close"),
    [
        (BF16, F32, (2**-7, 2**-6, 1e-5, 1e-5)),
        (BF16, BF16, (2**-7, 2**-6, 2**-8, 2**-8)),
        (F16, F32, (2**-11, 2**-10, 1e-5, 1e-5)),
    ],
)
def test_half_precision_sums_in_float32(dtype, weight_dtype, close):
    check(inputs((2, 5, 3, 70), dtype, weight_dtype), (5, 3), close=close)


def test_layouts_other_than_contiguous():
    tokens, weight, bias = inputs((2, 4, 5, 6))
    columns = tokens.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    wide = torch.randn(2, 20, 12)[..., ::2].requires_grad_()
    weight = weight.detach().to(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(12)[::2].requires_grad_()
    for strided in columns, wide:
        assert not strided.is_contiguous()
        check([strided, weight, bias], (4, 5), grad=torch.ones(1, 1, 6).expand(2, 20, 6))


def test_gradcheck():
    leaves = inputs((1, 3, 2, 2), F64, F64)
    assert torch.autograd.gradcheck(
        lambda *args: dwconv_gelu_op(*args, 3, 2), leaves, fast_mode=True
    )


def test_only_the_inputs_are_kept():
    leaves = inputs((1, 4, 4, 8))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dwconv_gelu_op(*leaves, 4, 4)
    assert {t.data_ptr() for t in kept} == {leaf.data_ptr() for leaf in leaves}


def test_operator_contract():
    results = torch.library.opcheck(dwconv_gelu_op, (*inputs((2, 3, 4, 5)), 3, 4))
    assert set(results.values()) == {"SUCCESS"}


def test_backward_operator_contract():
    arguments = [leaf.detach() for leaf in inputs((2, 3, 4, 5))]
    arguments = (torch.randn(2, 12, 5), *arguments, 3, 4)
    results = torch.library.opcheck(dwconv_gelu_backward_op, arguments)
    assert set(results.values()) == {"SUCCESS"}
    assert all(gradient.is_contiguous() for gradient in dwconv_gelu_backward_op(*arguments))


def test_compiled_with_changing_sizes(monkeypatch):
    monkeypatch.setattr(MODULE, "is_available", lambda tokens: True)
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(str(graph.code))
        return graph.forward

    compiled = torch.compile(dwconv_gelu, fullgraph=True, dynamic=True, backend=backend)
    for shape in [(1, 4, 3, 6), (2, 5, 7, 6), (3, 6, 4, 6)]:
        tokens, weight, bias = inputs(shape)
        result = compiled(tokens, weight, bias, shape[1:3])
        grads = torch.autograd.grad(result.sum(), (tokens, weight, bias))
        for a, b in zip(
            (result, *grads),
            expected((tokens, weight, bias), torch.ones_like(result), shape[1:3]),
            strict=True,
        ):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    assert "pvt_mm.dwconv_gelu" in graphs[0]
    assert len(graphs) <= 2  # one for batch 1, one for all others


def test_public_function_takes_the_kernel(monkeypatch):
    monkeypatch.setattr(MODULE, "is_available", lambda tokens: True)
    leaves = inputs((1, 2, 3, 4))
    assert "dwconv_gelu" in dwconv_gelu(*leaves, (2, 3)).grad_fn.name()


def test_autocast_casts_the_tokens_only(monkeypatch):
    # A CPU build has no autocast for CUDA to switch on.
    monkeypatch.setattr(MODULE, "is_available", lambda tokens: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: F16)
    leaves = inputs((1, 2, 3, 4))
    result = dwconv_gelu(*leaves, (2, 3))
    assert result.dtype == F16
    grads = torch.autograd.grad(result.sum(), leaves)
    assert [grad.dtype for grad in grads] == [F32] * 3
