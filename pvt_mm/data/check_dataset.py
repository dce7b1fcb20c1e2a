"""Checking whole data sets, from the command line and from Python."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import load_config
from pvt_mm.data.batches import check_batches
from pvt_mm.data.checks import ERROR, KINDS, WARNING, Finding, Findings
from pvt_mm.data.data_checks import check_files
from pvt_mm.data.dataset_sources import Source, sources
from pvt_mm.data.evaluators import check_evaluators
from pvt_mm.data.heads import check_model
from pvt_mm.data.image_checks import ImageTask, check_images
from pvt_mm.data.leftovers import find_leftovers
from pvt_mm.data.splits import check_splits
from pvt_mm.data.targets import Targets, check_targets
from pvt_mm.errors import UserError, run_tool
from pvt_mm.wording import some

__all__ = ["Report", "check_dataset", "main"]

SPLITS = ("train", "val", "test")
PROBLEMS_CODE = 1
# Of each kind, on the screen.
SHOWN = 5


@dataclass
class Report:
    """What was found in one data set.

    Args:
        names: Its places in the config, more than one if splits share it.
        source: Its annotation file, or its folder of images.
        facts: What it holds, in words.
        findings: What is wrong with it.
    """

    names: list[str]
    source: str
    facts: str = ""
    findings: Findings = field(default_factory=Findings)


def check_dataset(
    config: str | os.PathLike,
    *,
    splits: Sequence[str] = SPLITS,
    limit: int | None = None,
    workers: int | None = None,
    show: str | os.PathLike | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> list[Report]:
    """Check every annotation and every image of a config's data sets.

    Args:
        config: The config file.
        splits: Of 'train', 'val' and 'test'; one that the config lacks is left out.
        limit: How many images of each data set to read, evenly spread; all unless given.
        workers: Processes that read images; 0 reads them here. By default one per CPU, at most 8.
        show: A PNG to write: some samples of each data set as the network will see them.
        cfg_options: Changes of the config, by dotted key.

    Returns:
        A report for each data set.

    Raises:
        UserError: If a folder or an annotation file is missing, or the config has no data set that
            can be checked.
    """
    cfg = load_config(config, cfg_options)
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)))
    by_split = {split: list(sources(cfg, split)) for split in splits}
    found = [source for group in by_split.values() for source in group]
    if not found:
        raise UserError(
            f"{config}: no data set of {', '.join(splits)} is on this disk and of a known kind"
        )
    for source in found:
        check_files(source)
    reports: dict[str, Report] = {}
    reads: dict[str, tuple[Source, Targets | None]] = {}
    for source in found:
        # Validation and test mostly share a data set.
        key = repr((source.config, source.evaluation))
        if key in reports:
            reports[key].names.append(source.where)
        else:
            reports[key] = Report([source.where], source.name)
            reads[source.where] = source, _check(cfg, source, reports[key], limit, workers)
            reports[key].findings.extend(check_model(cfg, source))
    for split, group in by_split.items():
        _check_evaluators(cfg, split, group, list(reports.values()))
    if limit != 0 and not any(report.findings.count(ERROR) for report in reports.values()):
        train = [reads[source.where] for source in by_split.get("train", ())]
        for report in reports.values():
            other = [reads[name] for name in report.names if name in reads]
            if train and not report.names[0].startswith("train"):
                report.findings.extend(check_splits(train, other))
    if show is not None:
        _show(cfg, {source.where: source.dataset for source, _ in reads.values()}, Path(show))
    return list(reports.values())


def _show(cfg: Config, datasets: Mapping[str, BaseDataset], path: Path) -> None:
    from pvt_mm.data.pictures import draw_grid  # imports matplotlib

    try:
        draw_grid(cfg, datasets, path)
    except OSError as error:
        raise UserError(f"--show {path} cannot be written ({error.strerror})") from error


def _check_evaluators(
    cfg: Config, split: str, group: Sequence[Source], reports: Sequence[Report]
) -> None:
    """Add what is wrong with a split's evaluators to the report of its first data set."""
    mine = [r for source in group for r in reports if source.where in r.names]
    if split == "train" or any(report.findings.count(ERROR) for report in mine):
        return
    known = mine[0].findings if mine else Findings()
    for finding in check_evaluators(cfg, split, group):
        # Validation and test mostly share an evaluator, which is said once.
        said = {(f.kind, f.file) for *_, kept in known.groups() for f in kept}
        if (finding.kind, finding.file) not in said:
            known.add(finding)


def _check(
    cfg: Config, source: Source, report: Report, limit: int | None, workers: int
) -> Targets | None:
    """Fill the report of a data set; returns what some samples hold, if they are read."""
    dataset = source.dataset
    if source.reads_coco:
        tasks = _check_annotations(source, report)
    else:
        tasks = [
            ImageTask(info["img_path"], label_map=info.get("seg_map_path"))
            for info in dataset.load_data_list()
            if "img_path" in info
        ]
        report.facts = f"{len(tasks)} images"
        report.findings.extend(find_leftovers(source))
        if not tasks:
            report.findings.add(Finding("no-images", "holds no images", report.source))
    if limit is not None and limit < len(tasks):
        tasks = [tasks[index * len(tasks) // limit] for index in range(limit)]
        report.facts += f", {limit} of them read"
    check_images(tasks, source.image_reader(), source.label_reader(), workers, report.findings)
    if limit != 0 and not report.findings.count(ERROR):
        targets = check_targets(source, report.findings)
        if targets:
            split = source.where.partition("_dataloader")[0]
            report.findings.extend(check_batches(cfg, split, targets))
        return targets
    return None


def _check_annotations(source: Source, report: Report) -> list[ImageTask]:
    path = Path(source.dataset.ann_file)
    print(f"{source.where}: reading {path} ({path.stat().st_size / 2**20:.1f} MiB)", flush=True)
    content = source.check_annotations(report.findings)
    absent = [name for name in source.classes if name not in content.names]
    empty = len(content.images) - len(content.annotated)
    report.facts = (
        f"{len(content.images)} images ({empty} without annotations), "
        f"{content.annotations} annotations ({content.crowds} crowds), "
        f"{len(content.names)} categories"
    )
    if absent:
        report.facts += f"; classes without a category: {some(absent)}"
    folder = source.dataset.data_prefix.get("img", "")
    return [
        ImageTask(os.path.join(folder, image.file_name), (image.width, image.height), image.id)
        for image in content.images.values()
    ]


def _render(report: Report) -> str:
    findings = report.findings
    lines = ["", f"{', '.join(report.names)}: {report.source}", f"  {report.facts}"]
    for level, kind, count, examples in findings.groups():
        lines.append(f"  {level} {kind} ({count}): expected {KINDS[kind].expected}")
        lines += [f"    {finding}" for finding in examples[:SHOWN]]
        if count > SHOWN:
            lines.append(f"    ... and {count - SHOWN} more")
        label = "to mend" if KINDS[kind].level == ERROR else "treated as"
        lines.append(f"    {label}: {KINDS[kind].advice}")
    return "\n".join(lines)


def _write_json(path: str, reports: Sequence[Report]) -> None:
    content = [
        {
            "data sets": report.names,
            "source": report.source,
            "facts": report.facts,
            "findings": report.findings.as_dict(),
        }
        for report in reports
    ]
    try:
        Path(path).write_text(json.dumps(content, indent=1, default=str) + "\n")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written ({error.strerror})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/check_dataset.py``.

    Args:
        argv: The command line without the program's name; ``sys.argv``'s by default.

    Returns:
        The exit code: 0 without errors in the data, 1 with some, 2 for a mistake that stderr
        names in one line.
    """
    parser = CommandLine(
        "check_dataset.py",
        "Read all annotations and images of a config's data sets and name what is "
        "wrong. Exit code: 0 no errors (warnings may be), 1 errors in the data, 2 a mistake in "
        "the call.",
    )
    parser.add_config()
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, default=SPLITS, help="which to check; all by default"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="read N images of each data set, evenly spread; 0 checks annotations alone",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read images; default: CPUs, up to 8",
    )
    parser.add_argument(
        "--show", metavar="FILE", help="draw samples as the network will see them, in one PNG"
    )
    parser.add_json("write the report as JSON, too")
    parser.add_cfg_options()
    args = parser.parse_args(argv)
    for name in ("limit", "workers"):
        if (getattr(args, name) or 0) < 0:
            parser.error(f"--{name} must be at least 0")
    reports: list[Report] = []
    return run_tool(partial(_run, args, reports)) or _exit_code(reports)


def _run(args: Any, reports: list[Report]) -> None:
    reports += check_dataset(
        args.config,
        splits=args.split,
        limit=args.limit,
        workers=args.workers,
        show=args.show,
        cfg_options=args.cfg_options,
    )
    for report in reports:
        print(_render(report))
    counts = {level: sum(r.findings.count(level) for r in reports) for level in (ERROR, WARNING)}
    print(f"\n{len(reports)} data sets: {counts[ERROR]} errors, {counts[WARNING]} warnings")
    if args.show:
        print(f"what the network will see is drawn in {args.show}")
    sys.stdout.flush()
    if args.json:
        _write_json(args.json, reports)


def _exit_code(reports: Sequence[Report]) -> int:
    return PROBLEMS_CODE if any(report.findings.count(ERROR) for report in reports) else 0
