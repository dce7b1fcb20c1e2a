"""The command line of ``tools/benchmark.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from pvt_mm.allocator import tune_allocator
from pvt_mm.backbones import ARCHS
from pvt_mm.cli import ArgumentTypeError, CommandLine, Namespace
from pvt_mm.costs.benchmark.case import DTYPES, Case
from pvt_mm.costs.benchmark.contenders import CONTENDERS
from pvt_mm.costs.benchmark.gemm import gemm_rates, higher_rates
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.measure import measure_case
from pvt_mm.costs.benchmark.peers import enter_peers
from pvt_mm.costs.benchmark.report import (
    COLUMNS,
    SCHEMA,
    as_table,
    case_rows,
    machine_lines,
    write_json,
)
from pvt_mm.devices import choose_device
from pvt_mm.errors import UserError, run_tool

__all__ = ["main", "make_parser", "run_benchmark"]


def make_parser() -> CommandLine:
    """The options of the tool."""
    parser = CommandLine(
        "benchmark.py",
        "Measure speed and memory of backbones or whole models, beside other "
        "implementations of the same architecture. On CPUs all is measured twice: as the process "
        "starts, and with pvt_mm.tune_allocator(), for all alike.",
        epilog=f"Architectures: {', '.join(ARCHS)}.",
    )
    parser.add_argument("models", nargs="+", metavar="CONFIG_OR_ARCH")
    parser.add_shape("input in pixels; default 800 1344, for a config its own")
    parser.add_argument("--batch", type=int, default=1, help="images per step")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="what autocast computes in"
    )
    parser.add_flag("--train", "a training step (forward, backward, AdamW) in place of inference")
    parser.add_flag("--compile", "torch.compile every contender")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--against",
        type=_names,
        default=(),
        metavar="A,B",
        help=f"compare with {', '.join(CONTENDERS[1:])}; timm and transformers run in the "
        "environment of `make peers`",
    )
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds; default 7")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_flag("--with-cp", "pvt_mm recomputes activations (and without it too)")
    parser.add_argument(
        "--memory",
        nargs="?",
        type=int,
        const=1,
        default=0,
        metavar="N",
        help="measure peak memory as well, in N processes for each contender; default 1",
    )
    parser.add_flag("--no-time", "measure memory only")
    parser.add_json("write every sample to a JSON file")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    unknown = [name for name in names if name not in CONTENDERS[1:]]
    if unknown:
        raise ArgumentTypeError(
            f"{', '.join(unknown)} is unknown; known are {', '.join(CONTENDERS[1:])}"
        )
    return names


def run_benchmark(options: Namespace) -> dict:
    """Measure what the command line asks for, print tables, return the JSON's content.

    Raises:
        UserError: If an option does not fit, before anything is measured.
    """
    choose_device(options.device)
    if options.repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {options.repeats}")
    if options.threads is not None:
        if options.threads < 1:
            raise UserError(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    cases = [_case(model, options) for model in options.models]
    machine = describe_machine(options.device)
    on_cpu = options.device == "cpu"
    if on_cpu:
        machine["gemm_flops"] = gemm_rates()
    print(machine_lines(machine), flush=True)
    results = [_measure(case, options, tuned=False) for case in cases]
    if on_cpu and tune_allocator():
        for case, result in zip(cases, results, strict=True):
            result["tuned"] = _measure(case, options, tuned=True)["contenders"]
    if on_cpu:
        machine["gemm_flops"] = higher_rates(machine["gemm_flops"], gemm_rates())
    for case, result in zip(cases, results, strict=True):
        rows = case_rows(result, gemm_flops=machine.get("gemm_flops"))
        print(f"\n{case.label}\n\n{as_table(COLUMNS, rows)}", flush=True)
    content = {"schema": SCHEMA, "machine": machine, "results": results}
    if options.json:
        write_json(options.json, content)
    return content


def _measure(case: Case, options: Namespace, tuned: bool) -> dict:
    where = "with the allocator tuned" if tuned else "as the process starts"
    return measure_case(
        case,
        ("pvt_mm", *options.against),
        repeats=0 if options.no_time else options.repeats,
        memory_repeats=options.memory or int(options.no_time),
        plain=True,
        tuned=tuned,
        progress=lambda line: print(f"... {where}: {line}", file=sys.stderr, flush=True),
    )


def _case(model: str, options: Namespace) -> Case:
    shape = tuple(options.shape) if options.shape else None
    if shape is None and not model.endswith(".py"):
        shape = (800, 1344)
    try:
        return Case(
            model=model,
            shape=shape,
            batch=options.batch,
            mode="train" if options.train else "inference",
            dtype=options.dtype,
            device=options.device,
            compile=options.compile,
            with_cp=options.with_cp,
            threads=options.threads,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/benchmark.py``; see :mod:`pvt_mm.cli`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = make_parser().parse_args(arguments)

    def act() -> None:
        enter_peers(options.against, ["-m", "pvt_mm.costs.benchmark", *arguments])
        run_benchmark(options)

    return run_tool(act)
