"""The Triton kernels in Triton's compiler, which needs no GPU either."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("dtype", "capability"), [("bf16", 90), ("fp32", 80)])
@pytest.mark.parametrize("name", ["conv_kernel", "grad_kernel"])
def test_kernels_compile_for_gpus(name, dtype, capability, tmp_path, monkeypatch):
    """The interpreter takes what the compiler refuses; the compiler needs no GPU."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pvt_mm.kernels.gpu import launch, triton_dwconv

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = launch.choose_tile(torch.empty(2, 200 * 336, 512, device="meta"), 200, 336)[0]
    options = {key: tile.pop(key) for key in ("num_warps", "enable_fp_fusion")}
    constants = {**tile, "GRAD": False, "ACC": tl.float32}
    kernel = getattr(triton_dwconv, name)
    float32 = {"weight_ptr", "bias_ptr", "sums_ptr"}
    signature, aligned = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        signature[argument] = "constexpr" if argument in constants else "i32"
        if argument.endswith("_ptr"):
            signature[argument] = "*fp32" if argument in float32 else f"*{dtype}"
        if argument.endswith("_ptr") or argument == "channels":
            aligned[(i,)] = [["tt.divisibility", 16]]
    constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm
    assert code["cubin"]
    width = {"bf16": "v2", "fp32": "v4"}[dtype]  # four channels in one access
    assert f"st.global.{width}.b32" in code["ptx"]
    assert dtype != "bf16" or "cvt.rn.bf16" in code["ptx"]  # rounds to nearest
    assert "ld.global.b16" not in code["ptx"] and "st.global.b16" not in code["ptx"]


def test_triton_is_imported_late():
    code = "import sys, torch; t = 'triton' in sys.modules; import pvt_mm.kernels.gpu;"
    code += "assert t or 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
