"""Counting parameters and operations, from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prettytable import PrettyTable

from pvt_mm.archs import ARCHS
from pvt_mm.backbones.pvt import MIN_SIZE
from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import load_config
from pvt_mm.config.models import usual_shape
from pvt_mm.costs.complexity import Complexity, build_arch, complexity, config_complexity
from pvt_mm.costs.kept import activation_bytes
from pvt_mm.errors import UserError, run_tool

__all__ = ["TABLE_SHAPES", "arch_name", "arch_table", "main", "measure"]

# Height and width: ImageNet's, ADE20K's crop, COCO's usual one.
TABLE_SHAPES = ((224, 224), (512, 512), (800, 1280))
ARCH_SHAPE, _, DETECTION_SHAPE = TABLE_SHAPES


def arch_name(name: str) -> str | None:
    """Complete the name of an architecture: ``b2`` is ``pvt_v2_b2``, ``small`` ``pvt_small``.

    Returns:
        The name of its release, or ``None`` if there is no such architecture.
    """
    name = name.removeprefix("pvt://")
    return next((full for full in (name, f"pvt_{name}", f"pvt_v2_{name}") if full in ARCHS), None)


def measure(
    target: str,
    shape: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[tuple[int, int], Complexity]:
    """Count the parameters and operations of a backbone or of a config's model.

    Args:
        target: The name of an architecture, or a config file.
        shape: Height and width in pixels; 224x224 for an architecture, 512x512 for a segmentor
            and 800x1280 for a detector unless given.
        options: Changes of the config, by dotted key.

    Returns:
        The shape and what one image of it costs.

    Raises:
        UserError: If there is neither such an architecture nor such a config.
    """
    arch = arch_name(target)
    if arch is not None:
        import torch

        shape = shape or ARCH_SHAPE
        return shape, complexity(build_arch(arch), (torch.zeros(1, 3, *shape),))
    if not target.endswith(".py") and not Path(target).exists():
        raise UserError(
            f"{target} is neither a config file nor an architecture; those are {', '.join(ARCHS)}"
        )
    cfg = load_config(_packaged(target), options)
    shape = shape or usual_shape(cfg, DETECTION_SHAPE)
    return shape, config_complexity(cfg, shape)


def _packaged(path: str) -> str:
    """Find a config by its bare name among those of the package, as mim does."""
    from pvt_mm.config.loading import CHECKOUT_CONFIGS

    packaged = CHECKOUT_CONFIGS / path
    return str(packaged) if not Path(path).exists() and packaged.is_file() else path


def arch_table(shapes: Sequence[tuple[int, int]] = TABLE_SHAPES) -> dict[str, dict]:
    """Measure every architecture at some sizes.

    Args:
        shapes: Heights and widths in pixels.

    Returns:
        By name: ``params``, and by ``'HxW'`` ``flops`` and ``activation_bytes``, for one image.
    """
    import torch

    table = {}
    for name in ARCHS:
        backbone = build_arch(name)
        sizes = {}
        for height, width in shapes:
            counted = complexity(backbone, (torch.zeros(1, 3, height, width),))
            kept = activation_bytes(backbone, (1, 3, height, width))
            sizes[f"{height}x{width}"] = {"flops": counted.flops, "activation_bytes": kept}
        table[name] = {"params": counted.params, "sizes": sizes}
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/get_flops.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "get_flops.py",
        "Count parameters and multiply-adds, attention included.",
        epilog=f"Architectures: {', '.join(ARCHS)}.",
    )
    parser.add_argument("targets", nargs="*", metavar="CONFIG_OR_ARCH", help="what to measure")
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or the side of a square; default 224 for an architecture, "
        "512 for a segmentor, 800 1280 for a detector",
    )
    parser.add_cfg_options()
    parser.add_flag("--parts", "also by part and by operator")
    parser.add_flag("--table", "all architectures at three sizes, or at --shape")
    parser.add_json("write the figures, unrounded")
    args = parser.parse_args(argv)
    if bool(args.targets) == args.table:
        parser.error("name configs or architectures, or give --table")
    return run_tool(lambda: _run(args))


def _run(args) -> None:
    shape = _shape(args.shape)
    if args.table:
        result = arch_table((shape,) if shape else TABLE_SHAPES)
        print(_render_table(result))
    else:
        result = {}
        rows = PrettyTable(["model", "input", "parameters (M)", "GFLOPs"], align="r")
        rows.align["model"] = "l"
        for target in args.targets:
            size, counted = measure(target, shape, args.cfg_options)
            name = arch_name(target) or Path(target).stem
            result[name] = {"shape": size, **asdict(counted)}
            rows.add_row([name, f"{size[0]}x{size[1]}", *_millions(counted)])
            for kind in ("parts", "operators") if args.parts else ():
                for part, count in getattr(counted, kind).items():
                    rows.add_row([f"  {part}", "", "", f"{count / 1e9:.2f}"])
        print(rows)
    print("GFLOPs: 10^9 multiply-adds of one image")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


def _shape(values: list[int] | None) -> tuple[int, int] | None:
    if values is None:
        return None
    if len(values) > 2 or min(values) < MIN_SIZE:
        given = " ".join(map(str, values))
        raise UserError(f"--shape {given}: expected one or two numbers, at least {MIN_SIZE}")
    return values[0], values[-1]


def _millions(counted: Complexity) -> tuple[str, str]:
    return f"{counted.params / 1e6:.2f}", f"{counted.flops / 1e9:.2f}"


def _render_table(table: dict[str, dict]) -> PrettyTable:
    sizes = list(next(iter(table.values()))["sizes"])
    fields = [field for size in sizes for field in (f"GFLOPs {size}", f"MiB kept {size}")]
    rows = PrettyTable(["backbone", "parameters (M)", *fields], align="r")
    rows.align["backbone"] = "l"
    for name, entry in table.items():
        figures = []
        for size in entry["sizes"].values():
            figures += [f"{size['flops'] / 1e9:.2f}", f"{size['activation_bytes'] / 2**20:.0f}"]
        rows.add_row([name, f"{entry['params'] / 1e6:.2f}", *figures])
    return rows
