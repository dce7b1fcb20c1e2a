"""Check and time the fused kernels against PyTorch's operators, on a GPU, in one call.

    python benchmarks/kernels.py --batch 1 2 16 --json benchmarks/results/kernels.json

For every stage of PVTv2-B2 at the given image size, every data type and batch: the largest error of
the result and the three gradients against float64, median milliseconds (the L2 cache is emptied
before each run) of the forward and of forward and backward, the share of the time that moving each
tensor once would take, and the peak memory. Exits with 1 if an error is larger than it may be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence

import _paths  # noqa: F401
import torch
from torch import Tensor

from pvt_mm.errors import UserError, run_tool
from pvt_mm.kernels.gpu import is_available
from pvt_mm.kernels.gpu.dwconv_gelu import eager_dwconv_gelu
from pvt_mm.kernels.gpu.ops import dwconv_gelu_op

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# One rounding of the result, two of the tokens' gradient; float32 sums of many products.
ALLOWED = {"bf16": 2**-7, "fp16": 2**-10, "fp32": 1e-5}
STAGES = [(4, 512), (8, 1024), (16, 1280), (32, 2048)]  # PVTv2-B2: stride, hidden channels E
FORWARD_PASSES, BACKWARD_PASSES = 2, 5  # E-wide tensors read or written, each at least once
ROUNDS = 3

Run = Callable[..., Tensor]


def fused(tokens: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """Call the Triton kernel itself, past the choice of the public function."""
    return dwconv_gelu_op(tokens, weight, bias, *hw)


def make_leaves(
    batch: int, hw: tuple[int, int], channels: int, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """Draw tokens, weight and bias that want gradients; the weights stay float32."""
    tokens = torch.randn(batch, hw[0] * hw[1], channels, device=device, dtype=dtype)
    weight = torch.randn(channels, 1, 3, 3, device=device) / 3
    leaves = tokens, weight, torch.randn(channels, device=device)
    return [leaf.requires_grad_() for leaf in leaves]


def largest_errors(hw: tuple[int, int], channels: int, dtype: torch.dtype, device: str) -> dict:
    """Compare with float64, relative to the largest value: the result and three gradients."""
    leaves = make_leaves(1, hw, channels, dtype, device)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    result, expected = fused(*leaves, hw), eager_dwconv_gelu(*exact, hw)
    grad = torch.randn_like(result)
    got = (result, *torch.autograd.grad(result, leaves, grad))
    want = (expected, *torch.autograd.grad(expected, exact, grad.double()))
    return {
        name: ((a.double() - b).abs().max() / b.abs().max()).item()
        for name, a, b in zip(["result", "tokens", "weight", "bias"], got, want, strict=True)
    }


def time_contenders(
    contenders: dict[str, Run], leaves: list[Tensor], hw: tuple[int, int], train: bool
) -> dict[str, float]:
    """Time each contender in turn, several rounds; median milliseconds."""
    from triton.testing import do_bench

    grad = torch.randn_like(leaves[0])
    times = {name: [] for name in contenders}

    def step(run: Run) -> None:
        with torch.set_grad_enabled(train):
            result = run(*leaves, hw)
        if train:
            torch.autograd.grad(result, leaves, grad)

    for _ in range(ROUNDS):
        for name, run in contenders.items():
            times[name].append(do_bench(lambda run=run: step(run), return_mode="median"))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(run: Run, leaves: list[Tensor], hw: tuple[int, int]) -> int:
    """Peak bytes of one forward and backward, over what was allocated before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run(*leaves, hw)
    torch.autograd.grad(result, leaves, torch.ones_like(result))
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth() -> float:
    """Bytes per second that this GPU moves in a plain copy, read and write together."""
    from triton.testing import do_bench

    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    seconds = do_bench(lambda: target.copy_(source), return_mode="median") / 1e3
    return 2 * source.nbytes / seconds


def measure(args: argparse.Namespace) -> list[dict]:
    """Measure every cell of the table, printing each as it is done."""
    bandwidth = copy_bandwidth()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, "
        f"copy {bandwidth / 1e12:.2f} TB/s"
    )
    contenders = {"fused": fused, "eager": as_autocast(eager_dwconv_gelu)}
    if not args.no_compile:
        contenders["compiled"] = torch.compile(contenders["eager"], dynamic=False)
    rows = []
    for batch in args.batch:
        for stride, channels in STAGES:
            hw = (args.shape[0] // stride, args.shape[1] // stride)
            for name in args.dtype:
                rows.append(one_cell(contenders, batch, hw, channels, name, bandwidth))
                print(line(rows[-1]), flush=True)
    return rows


def as_autocast(run: Run) -> Run:
    """Give PyTorch's operators what autocast would: the weights in the tokens' dtype."""

    def cast(tokens: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
        return run(tokens, weight.to(tokens.dtype), bias.to(tokens.dtype), hw)

    return cast


def one_cell(
    contenders: dict[str, Run],
    batch: int,
    hw: tuple[int, int],
    channels: int,
    name: str,
    bandwidth: float,
) -> dict:
    """Check and time one shape and data type."""
    torch.manual_seed(0)
    dtype = DTYPES[name]
    errors = largest_errors(hw, channels, dtype, "cuda")
    leaves = make_leaves(batch, hw, channels, dtype, "cuda")
    row = {"batch": batch, "hw": hw, "channels": channels, "dtype": name, "errors": errors}
    row["right"] = all(error <= ALLOWED[name] for error in errors.values())
    for train in False, True:
        passes = FORWARD_PASSES + BACKWARD_PASSES * train
        floor = 1e3 * passes * leaves[0].nbytes / bandwidth
        times = time_contenders(contenders, leaves, hw, train)
        row["train" if train else "forward"] = {"floor_ms": floor, "ms": times}
    row["peak_bytes"] = {key: peak_memory(run, leaves, hw) for key, run in contenders.items()}
    return row


def line(row: dict) -> str:
    """Write a cell as one line."""
    parts = [
        f"batch {row['batch']} {row['hw'][0]}x{row['hw'][1]}x{row['channels']} {row['dtype']}",
        f"{'right' if row['right'] else 'WRONG'} (error {max(row['errors'].values()):.1e})",
    ]
    for what in "forward", "train":
        times, floor = row[what]["ms"], row[what]["floor_ms"]
        listed = ", ".join(f"{name} {ms:.3f}" for name, ms in times.items())
        parts.append(f"{what} ms: {listed}, {floor / times['fused']:.0%} of the bandwidth")
    listed = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in row["peak_bytes"].items())
    return "; ".join([*parts, f"peak MiB: {listed}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=[800, 1344], help="image size")
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args(argv)
    rows = []

    def run() -> None:
        if not torch.cuda.is_available() or not is_available(torch.zeros(1, device="cuda")):
            raise UserError("benchmarks/kernels.py needs an NVIDIA GPU, torch's CUDA build, Triton")
        rows.extend(measure(args))
        if args.json:
            with open(args.json, "w") as file:
                json.dump(rows, file, indent=1)

    return run_tool(run) or int(not all(row["right"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
