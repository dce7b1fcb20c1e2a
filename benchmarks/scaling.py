"""Measure how the cost of a backbone grows with the number of pixels, and draw it.

Cost should grow like the operation count: linearly for linear SRA, and for SRA linearly plus the
square of the pixels over the reduction ratio's square. At the two largest sizes torch's profiler
splits the plain modules' time into attention's products, with their softmax, and the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import _paths
import numpy as np
import torch

from pvt_mm.allocator import tune_allocator
from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.machine import describe_machine
from pvt_mm.costs.benchmark.report import SCHEMA, write_json
from pvt_mm.costs.benchmark.roofline import macs, operations
from pvt_mm.costs.benchmark.timing import time_interleaved
from pvt_mm.costs.benchmark.workloads import prepare

MODELS = ("pvt_v2_b2_li", "pvt_v2_b2", "pvt_small")
SIDES = (256, 352, 512, 736, 1024, 1440, 2048)


def slope(pixels: Sequence[float], cost: Sequence[float]) -> float:
    """Exponent of the power law that fits best, by least squares on the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(cost), 1)[0])


def last_slope(pixels: Sequence[float], cost: Sequence[float]) -> float:
    """Exponent between the two largest inputs, where fixed costs matter least."""
    return slope(pixels[-2:], cost[-2:])


def measure(models: Sequence[str], sides: Sequence[int], repeats: int) -> dict:
    """Time square inputs of all sides, interleaved, one model after the other.

    Args:
        models: Names of architectures.
        sides: Sides in pixels, multiples of 32, rising.
        repeats: Rounds.

    Returns:
        What the JSON holds.
    """
    tune_allocator()  # fresh pages for larger maps are no cost of the network
    content = {"schema": SCHEMA, "machine": describe_machine(), "models": {}}
    for model in models:
        steps = {side: prepare("pvt_mm", Case(model, (side, side))).step for side in sides}
        timings = time_interleaved({str(side): step for side, step in steps.items()}, repeats)
        pixels = [side * side for side in sides]
        seconds = [timings.seconds[str(side)] for side in sides]
        medians = [float(np.median(each)) for each in seconds]
        count = [macs(ARCHS[model], (side, side)) for side in sides]
        del steps, timings
        content["models"][model] = {
            "sides": list(sides),
            "seconds": [[float(f"{value:.6g}") for value in each] for each in seconds],
            "macs": count,
            "exponent": {
                "time": slope(pixels, medians),
                "operations": slope(pixels, count),
                "time, two largest": last_slope(pixels, medians),
                "operations, two largest": last_slope(pixels, count),
            },
            "split": {str(side): split(model, side) for side in sides[-2:]},
        }
        exponents = content["models"][model]["exponent"]
        shown = ", ".join(f"{name} {value:.3f}" for name, value in exponents.items())
        print(f"{model}: exponents of {shown}", flush=True)
    return content


def split(model: str, side: int) -> dict[str, dict[str, float]]:
    """Seconds and operations per second of attention and of the rest of a forward pass.

    Args:
        model: Name of an architecture; its plain modules, whose attention is one operator.
        side: Of the square input, in pixels.
    """
    step = prepare("pvt_mm_plain", Case(model, (side, side))).step
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        step()
    seconds = {"attention": 0.0, "rest": 0.0}
    for event in seen.key_averages():
        part = "attention" if "attention" in event.key else "rest"
        seconds[part] += event.self_cpu_time_total / 1e6
    count = {"attention": 0, "rest": 0}
    for each in operations(ARCHS[model], (side, side)):
        count["attention" if each.name == "attention" else "rest"] += each.macs
    return {
        part: {"seconds": seconds[part], "flops": 2 * count[part] / seconds[part]}
        for part in seconds
    }


def draw(content: dict, path: Path) -> None:
    """Plot seconds against pixels, both logarithmic, beside the operation count's shape."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    for model, found in content["models"].items():
        pixels = np.array(found["sides"]) ** 2
        seconds = np.array(found["seconds"])
        low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75), axis=1)
        exponent = found["exponent"]["time"]
        (line,) = axes.loglog(pixels, median, "o-", label=f"{model}: slope {exponent:.2f}")
        axes.fill_between(pixels, low, high, color=line.get_color(), alpha=0.2)
        count = np.array(found["macs"])
        middle = len(count) // 2
        axes.loglog(
            pixels,
            count / count[middle] * median[middle],
            ":",
            color=line.get_color(),
            label=f"operation count: slope {found['exponent']['operations']:.2f}",
        )
    axes.set_xlabel("pixels of the input")
    axes.set_ylabel("seconds of a forward pass")
    axes.set_title("Cost against input size, batch 1, float32, CPU")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; ``argv`` are the arguments, ``sys.argv``'s by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=ARCHS, default=MODELS, metavar="ARCH")
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=_paths.RESULTS / "scaling.json")
    parser.add_argument("--redraw", action="store_true", help="only draw the results again")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.redraw:
        write_json(options.out, measure(options.models, options.sides, options.repeats))
    draw(json.loads(options.out.read_text()), options.out.with_suffix(".png"))
    print(f"wrote {options.out.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
