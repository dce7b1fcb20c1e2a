"""Measure the backbones on a CPU, beside MMDetection's, timm's and transformers'.

Each part is one call of tools/benchmark.py in a process of its own. Parts that the results hold
already are not measured again, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import _paths

from pvt_mm.costs.benchmark.report import SCHEMA, write_json
from pvt_mm.errors import UserError, run_tool

ALL = "pvt_mm_plain,mmdet,timm,transformers"
INFERENCE = "--memory 1 --against"
TRAINING = "--train --shape 512 512 --batch 2 --memory 1 --against"
PARTS = {
    "inference-pvt_small": f"pvt_small {INFERENCE} pvt_mm_plain,mmdet,transformers",
    "inference-pvt_v2_b0": f"pvt_v2_b0 {INFERENCE} {ALL}",
    "inference-pvt_v2_b2": f"pvt_v2_b2 {INFERENCE} {ALL}",
    "inference-224-pvt_v2_b2": f"pvt_v2_b2 --shape 224 224 {INFERENCE} {ALL}",
    "inference-bfloat16-pvt_v2_b2": f"pvt_v2_b2 --dtype bfloat16 {INFERENCE} {ALL}",
    "inference-pvt_v2_b2_li": f"pvt_v2_b2_li {INFERENCE} pvt_mm_plain,timm,transformers",
    "train-pvt_small": f"pvt_small {TRAINING} pvt_mm_plain,mmdet,transformers",
    "train-pvt_v2_b2": f"pvt_v2_b2 {TRAINING} pvt_mm_recompute,{ALL}",
    "train-pvt_v2_b2_li": f"pvt_v2_b2_li {TRAINING} pvt_mm_plain,timm,transformers",
    "train-with_cp-pvt_v2_b2": f"pvt_v2_b2 --with-cp {TRAINING} {ALL}",
}


def measure(parts: Sequence[str], extra: Sequence[str], out: Path, again: bool) -> None:
    """Measure parts that are not in ``out`` yet, and write each as soon as it is done.

    Args:
        parts: Keys of ``PARTS``.
        extra: More options for tools/benchmark.py; the last one of a kind counts.
        out: The results.
        again: Whether to measure what is there already.

    Raises:
        UserError: If a part fails; those before it are kept.
    """
    content = json.loads(out.read_text()) if out.is_file() else {"parts": {}}
    content["schema"] = SCHEMA
    for part in parts:
        if part in content["parts"] and not again:
            print(f"{part}: there already; --again measures it anew", flush=True)
            continue
        arguments = [*shlex.split(PARTS[part]), *extra]
        command = f"python tools/benchmark.py {shlex.join(arguments)}"
        print(f"\n{part}: {command}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            tool = str(_paths.ROOT / "tools" / "benchmark.py")
            done = subprocess.run([sys.executable, tool, *arguments, "--json", str(report)])
            if done.returncode:
                raise UserError(f"{part} failed with exit code {done.returncode}")
            measured = json.loads(report.read_text())
        content["parts"][part] = {
            "command": command,
            "machine": measured["machine"],
            "result": measured["results"][0],
        }
        write_json(out, content)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; ``sys.argv``'s by default. What this script does not know is handed
            to tools/benchmark.py.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--again", action="store_true", help="measure what is there already too")
    parser.add_argument("--list", action="store_true", help="print the parts and stop")
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "cpu.json")
    options, extra = parser.parse_known_args(argv)
    if options.list:
        print("\n".join(f"{part}: {arguments}" for part, arguments in PARTS.items()))
        return 0
    return run_tool(lambda: measure(options.only, extra, options.out, options.again))


if __name__ == "__main__":
    sys.exit(main())
