"""The command line of ``tools/prepare_data.py``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pvt_mm.cli import CommandLine, Namespace
from pvt_mm.data.prepare.label_maps import read_classes
from pvt_mm.data.prepare.prepare import FORMATS, Prepared, prepare_data
from pvt_mm.errors import UserError, run_tool
from pvt_mm.wording import some

__all__ = ["main"]

# What a data set can be trained with, the richest first.
MODELS = {"boxes": "retinanet", "masks": "mask_rcnn", "label maps": "semantic_fpn"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/prepare_data.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "prepare_data.py",
        "Find out what labelled images are (COCO JSON, Pascal VOC XML, YOLO, LabelMe, "
        "label maps of numbers, colours or 0 and 255), split them if they are not, and write one "
        "data set that new_config.py makes a config for. The source is not touched.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, or an annotation file in it")
    parser.add_argument("--out", help="folder to write; default data/NAME_prepared")
    parser.add_flag("--overwrite", "replace what was prepared there")
    parser.add_argument("--format", choices=FORMATS, help="found out unless given")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=(),
        metavar="NAME[=VALUE]",
        help="names in the order to use; of label maps also values: bolt=1 or bolt=255,0,0",
    )
    parser.add_argument(
        "--ignore", nargs="+", type=int, default=(), metavar="VALUE", help="values of no class"
    )
    parser.add_argument("--val", type=float, default=0.2, help="share to validate on, if not split")
    parser.add_argument("--test", type=float, default=0.0, help="share to test on, if not split")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--group-by", metavar="REGEX", help="what it finds in names stays together")
    args = parser.parse_args(argv)
    if not (args.val > 0 <= args.test and args.val + args.test < 1):
        parser.error("--val must be above 0, --test at least 0, both together below 1")
    return run_tool(lambda: _run(args))


def _run(args: Namespace) -> None:
    source = Path(args.source)
    name = source.resolve().name if source.is_dir() else source.resolve().parent.name
    shares = {"train": 1 - args.val - args.test, "val": args.val, "test": args.test}
    try:
        re.compile(args.group_by or "")
    except re.error as error:
        raise UserError(f"--group-by {args.group_by}: no regular expression ({error})") from error
    prepared = prepare_data(
        source,
        args.out or Path("data") / f"{name}_prepared",
        format=args.format,
        classes=read_classes(args.classes),
        ignore=args.ignore,
        shares={split: share for split, share in shares.items() if share},
        seed=args.seed,
        group_by=args.group_by,
        overwrite=args.overwrite,
    )
    print(describe(prepared))


def describe(prepared: Prepared) -> str:
    """Say what was found, what was left out and what comes next."""
    width, height = prepared.size
    lines = [f"{prepared.source}: {prepared.format}, {prepared.task}, images of {width} x {height}"]
    splits = prepared.splits
    longest = max(map(len, (*prepared.classes, "images with")))
    lines.append(f"  {'':{longest}}" + "".join(f"{split:>8}" for split in splits))
    rows = [("images", [each["images"] for each in splits.values()])]
    if prepared.task != "label maps":
        rows.append(("objects", [each["objects"] for each in splits.values()]))
    for name in prepared.classes:
        rows.append((name, [each["images_by_class"][name] for each in splits.values()]))
    for name, counts in rows:
        lines.append(f"  {name:{longest}}" + "".join(f"{count:>8}" for count in counts))
    lines.append("  (of a class: the images that hold it)")
    lines += [f"note: {note}" for note in prepared.notes]
    for reason, names in prepared.left_out.items():
        lines.append(f"left out: {len(names)} {reason}: {some(names)}")
    lines.append(
        f"wrote {prepared.folder}; next: python tools/new_config.py {prepared.folder} "
        f"--model {MODELS[prepared.task]} --arch b0"
    )
    return "\n".join(lines)
