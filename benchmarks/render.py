"""Put the results' tables into benchmarks/README.md; `--check` only says whether they are there.

No figure in that file is typed: each table stands between two comments that name its results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _paths
import floor
import gpu_report
import runtimes
import soak
import tricks
import whole_job

from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.report import COLUMNS, as_table, case_rows, machine_lines

README = Path(__file__).resolve().parent / "README.md"
BLOCK = re.compile(r"(<!-- (\w+): begin -->\n)(.*?)(<!-- \2: end -->)", re.DOTALL)


def cpu_block(content: dict[str, Any]) -> str:
    """All parts of ``cpu.py``, each with its machine where that differs from the first one's."""
    blocks, last = [], ""
    for part in content["parts"].values():
        machine = machine_lines(part["machine"])
        momentary = ("load", "gemm_flops")
        stable = {key: value for key, value in part["machine"].items() if key not in momentary}
        if stable != last:
            blocks.append(machine)
            last = stable
        title = Case.from_dict(part["result"]["case"]).label
        blocks.append(f"`{part['command']}`: {title}, load {part['machine']['load']}")
        rows = case_rows(part["result"], gemm_flops=part["machine"].get("gemm_flops"))
        blocks.append(as_table(COLUMNS, rows))
    return "\n\n".join(blocks)


def scaling_block(content: dict[str, Any]) -> str:
    """The fitted exponents of ``scaling.py``, and the split at the largest sizes."""
    names = ("time", "operations", "time, two largest", "operations, two largest")
    rows = [
        [model, *(f"{found['exponent'][name]:.2f}" for name in names)]
        for model, found in content["models"].items()
    ]
    split = [
        [model, f"{side}x{side}", part, f"{each['seconds']:.2f} s", f"{each['flops'] / 1e9:.0f}"]
        for model, found in content["models"].items()
        for side, parts in found["split"].items()
        for part, each in parts.items()
    ]
    header = ("model", "input", "part", "time", "GFLOP/s")
    tables = as_table(("model", *names), rows), as_table(header, split)
    return "\n\n".join((machine_lines(content["machine"]), *tables))


def whole_job_block(content: dict[str, Any]) -> str:
    """The breakdowns of ``whole_job.py``."""
    return "\n\n".join(
        f"{job}, batch {found['batch']}; {machine_lines(found['machine'])}\n\n"
        + whole_job.table(found["seconds"])
        for job, found in content["jobs"].items()
    )


def runtimes_block(content: dict[str, Any]) -> str:
    """The times of ``runtimes.py``."""
    return machine_lines(content["machine"]) + "\n\n" + runtimes.render(content["results"])


def soak_block(content: dict[str, Any]) -> str:
    """The trends of ``soak.py``, with the machine at the start of the first job."""
    machine = next(iter(content["jobs"].values()))["machine"]
    return machine_lines(machine) + "\n\n" + soak.table(content["jobs"])


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "cpu": cpu_block,
    "tricks": tricks.show,
    "floor": floor.show,
    "scaling": scaling_block,
    "whole_job": whole_job_block,
    "runtimes": runtimes_block,
    "runtimes_amx": runtimes_block,
    "pairs": runtimes_block,
    "soak": soak_block,
    "soak_jemalloc": soak_block,
    "gpu": gpu_report.show,
}


def rendered(text: str, results: Path) -> str:
    """The text with every block replaced by the tables of its results.

    Args:
        text: Markdown with ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
        results: Folder of ``NAME.json``; a block without it says that nothing is measured.

    Raises:
        ValueError: If a block has a name without a renderer.
    """

    def block(match: re.Match) -> str:
        name = match[2]
        if name not in BLOCKS:
            raise ValueError(f"block {name!r} is unknown; known are {', '.join(BLOCKS)}")
        path = results / f"{name}.json"
        body = "Not measured yet."
        if path.is_file():
            body = BLOCKS[name](json.loads(path.read_text()))
        return f"{match[1]}\n{body}\n\n{match[4]}"

    return BLOCK.sub(block, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it would")
    options = parser.parse_args(argv)
    old = README.read_text()
    new = rendered(old, _paths.RESULTS)
    if options.check:
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
