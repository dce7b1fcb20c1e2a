import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pvt_mm.kernels.gpu import dwconv_gelu, is_available

ROOT = Path(__file__).resolve().parent.parent
# By its name: the package's attribute of that name is the function.
MODULE = import_module("pvt_mm.kernels.gpu.dwconv_gelu")


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 5, 3, 8)])
def test_eager_path_on_cpu(shape):
    batch, height, width, channels = shape
    torch.manual_seed(0)
    tokens = torch.randn(batch, height * width, channels, requires_grad=True)
    weight = torch.randn(channels, 1, 3, 3, requires_grad=True)
    bias = torch.randn(channels, requires_grad=True)
    result = dwconv_gelu(tokens, weight, bias, (height, width))
    assert not is_available(tokens)

    # The nine products written out: shift the padded map, weigh, add.
    padded = F.pad(tokens.view(batch, height, width, channels), (0, 0, 1, 1, 1, 1))
    z = bias
    for y in range(3):
        for x in range(3):
            z = z + padded[:, y : y + height, x : x + width] * weight[:, 0, y, x]
    oracle = (z * 0.5 * (1 + torch.erf(z / 2**0.5))).view_as(tokens)
    torch.testing.assert_close(result, oracle)
    grad = torch.randn_like(result)
    leaves = (tokens, weight, bias)
    for a, b in zip(
        torch.autograd.grad(result, leaves, grad),
        torch.autograd.grad(oracle, leaves, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast_on_cpu():
    with torch.autocast("cpu", torch.bfloat16):
        result = dwconv_gelu(torch.ones(1, 4, 2), torch.ones(2, 1, 3, 3), torch.zeros(2), (2, 2))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), torch.full((1, 4, 2), 4.0), rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    ("tokens", "weight", "bias", "hw", "said"),
    [
        ((1, 6, 4), (4, 1, 3, 3), (4,), (2, 2), r"\(1, 6, 4\) are not \(B, H\*W, E\) of hw=\(2, 2"),
        ((6, 4), (4, 1, 3, 3), (4,), (2, 3), r"\(6, 4\) are not"),
        ((1, 6, 4), (3, 1, 3, 3), (4,), (2, 3), r"weight \(3, 1, 3, 3\).*4 channels"),
        ((1, 6, 4), (4, 1, 5, 5), (4,), (2, 3), r"should be \(4, 1, 3, 3\)"),
        ((1, 6, 4), (4, 1, 3, 3), (1,), (2, 3), r"bias \(1,\) should be .*\(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(tokens, weight, bias, hw, said):
    with pytest.raises(ValueError, match=said):
        dwconv_gelu(torch.zeros(tokens), torch.zeros(weight), torch.zeros(bias), hw)


@pytest.mark.parametrize(
    ("changed", "served"),
    [
        ({}, True),
        ({"dtype": torch.bfloat16}, True),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.float64}, False),
        ({"is_cuda": False}, False),
    ],
)
def test_which_tokens_the_kernel_serves(changed, served, monkeypatch):
    monkeypatch.setattr(MODULE, "INSTALLED", True)
    monkeypatch.setattr(MODULE, "launches", lambda device, dtype: True)
    tokens = {"is_cuda": True, "dtype": torch.float32, "device": "cuda:0", **changed}
    assert is_available(SimpleNamespace(**tokens)) is served


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_traces_hold_no_kernel(monkeypatch):
    monkeypatch.setattr(MODULE, "INSTALLED", True)
    monkeypatch.setattr(MODULE, "launches", lambda device, dtype: True)
    tokens = SimpleNamespace(is_cuda=True, dtype=torch.float32, device="cuda:0")
    served = []
    run = lambda x: served.append(is_available(tokens)) or x + 1  # noqa: E731
    torch.jit.trace(run, torch.ones(1), check_trace=False)
    assert served == [False]
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert not is_available(tokens)


@pytest.mark.parametrize(
    ("cuda", "triton", "switch", "installed"),
    [
        ("13.0", True, None, True),
        ("13.0", True, "1", True),
        ("13.0", True, "0", False),
        ("13.0", False, None, False),
        (None, True, None, False),
    ],
)
def test_when_the_kernel_is_installed(cuda, triton, switch, installed, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(MODULE, "find_spec", lambda name: object() if triton else None)
    monkeypatch.delenv("PVT_MM_KERNELS", raising=False)
    if switch is not None:
        monkeypatch.setenv("PVT_MM_KERNELS", switch)
    assert MODULE.is_installed() is installed


def test_a_kernel_that_does_not_launch_is_named_once():
    """Here it never does: without a GPU, or without Triton."""
    MODULE.launches.cache_clear()
    with pytest.warns(UserWarning, match="dwconv_gelu kernel is off, .*Error") as warned:
        assert not MODULE.launches(torch.device("cpu"), torch.float32)
        assert not MODULE.launches(torch.device("cpu"), torch.float32)
    assert len(warned) == 1
    MODULE.launches.cache_clear()


def test_benchmark_without_a_gpu():
    done = run_python("benchmarks/kernels.py", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "needs an NVIDIA GPU" in done.stderr
