"""Checks of the data sets that a run is going to use, before it starts."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from mmengine.config import Config

from pvt_mm.config.loading import log
from pvt_mm.data.batches import check_batches
from pvt_mm.data.checks import (
    ERROR,
    KINDS,
    OF_THE_WHOLE,
    PER_SAMPLE,
    WARNING,
    Finding,
    Findings,
)
from pvt_mm.data.dataset_sources import Source, sources
from pvt_mm.data.evaluators import check_evaluators
from pvt_mm.data.heads import check_model
from pvt_mm.data.image_checks import ImageTask, find_faults
from pvt_mm.data.leftovers import find_leftovers
from pvt_mm.data.splits import check_splits
from pvt_mm.data.targets import Targets, check_targets
from pvt_mm.errors import UserError, some

__all__ = ["check_data", "check_files"]

# How many of a data set's images are read.
SAMPLES = 8
# How many images of a validation set are looked for in the training set.
COMPARED = 64
ADVICE = "`python tools/check_dataset.py CONFIG` names all"
# Variable, default and layout of the data roots in our configs.
ROOTS = (
    (
        "COCO_ROOT",
        "data/coco",
        "expected annotations/instances_{train,val}2017.json, train2017/ and val2017/ in it",
    ),
    (
        "ADE20K_ROOT",
        "data/ade/ADEChallengeData2016",
        "expected images/{training,validation}/ and annotations/{training,validation}/ in it",
    ),
    (
        "IMAGENET_ROOT",
        "data/imagenet",
        "expected train/CLASS/ and val/CLASS/ with images in it, one folder per class",
    ),
    ("DEMO_ROOT", "data/demo", "`python tools/make_demo_data.py` makes it"),
)
OTHER_FORMATS = {
    **dict.fromkeys((".yaml", ".yml"), "YAML, as YOLO has it"),
    **dict.fromkeys((".txt", ".csv"), "a list or table in text"),
    ".xml": "XML, as Pascal VOC has it",
}


def check_data(cfg: Config, splits: tuple[str, ...], read_annotations: bool = True) -> None:
    """Check files and class counts of the data sets of some splits.

    Args:
        cfg: The whole config.
        splits: Those that the run uses, of 'train', 'val' and 'test'.
        read_annotations: Whether to read annotation files too, not only look whether they exist.

    Raises:
        UserError: If files are missing, annotations can't be read or don't fit the classes, or
            a head's ``num_classes`` is not the number of classes.
    """
    spared = cfg.get("skip_bad_images") or 0
    reads: dict[str, list] = {}
    for split in splits:
        found = list(sources(cfg, split))
        for source in found:
            check_files(source)
            if read_annotations:
                _check_contents(source, spared if split == "train" else 0)
                reads.setdefault(split, []).append((source, _check_targets(cfg, split, source)))
            _refuse(source.where, _all(check_model(cfg, source)), 0)
        if read_annotations and split != "train":
            _refuse(f"{split}_evaluator", _all(check_evaluators(cfg, split, found)), 0)
    for split in reads.keys() - {"train"} if "train" in reads else ():
        shared = check_splits(reads["train"], reads[split], COMPARED)
        _refuse(f"{split}_dataloader.dataset", _all(shared), 0)


def _all(found: Iterable[Finding]) -> Findings:
    findings = Findings()
    findings.extend(found)
    return findings


def check_files(source: Source) -> None:
    """Check that a data set's folders and its annotation file are there.

    Raises:
        UserError: If one is missing.
    """
    dataset = source.dataset
    hint = _root_hint(str(dataset.data_root or ""))
    for name, folder in dataset.data_prefix.items():
        if folder and not Path(folder).is_dir():
            raise UserError(f"{source.where}: folder {folder} ({name}) not found; {hint}")
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        raise UserError(f"{source.where}: annotation file {dataset.ann_file} not found; {hint}")
    if source.reads_coco and (other := _other_format(Path(dataset.ann_file))):
        raise UserError(
            f"{source.where}: annotation file {dataset.ann_file} is {other}, not COCO's JSON; "
            f"`python tools/prepare_data.py {Path(dataset.ann_file).parent}` writes that"
        )


def _other_format(path: Path) -> str:
    """Name the format of annotations that are not in a JSON file; nothing if they may be."""
    if path.is_dir():
        return "a folder"
    return OTHER_FORMATS.get(path.suffix.lower(), "")


def _check_contents(source: Source, spared: int) -> None:
    """Check annotations, and a few images.

    Args:
        source: The data set.
        spared: How many bad images the run may leave out.
    """
    dataset = source.dataset
    if source.reads_coco:
        _check_coco(source, spared)
    elif not dataset.ann_file or Path(dataset.ann_file).is_dir():
        _check_folders(source, spared)


def _check_targets(cfg: Config, split: str, source: Source) -> Targets | None:
    """Check what the loss will see; log what may be meant otherwise, each in a line."""
    findings = Findings()
    targets = check_targets(source, findings)
    if targets:
        findings.extend(check_batches(cfg, split, targets))
    _refuse(source.where, findings, 0)
    return targets


def _root_hint(data_root: str) -> str:
    for variable, default, layout in ROOTS:
        root = os.environ.get(variable, default)
        if data_root and os.path.normpath(data_root) == os.path.normpath(root):
            hint = f"the data root is {data_root} (set {variable} to change it), {layout}"
            if variable != "DEMO_ROOT":
                hint += "; tools/make_demo_data.py makes a small one for the *_demo.py configs"
            return hint
    return f"the data root is {data_root or 'not set'}, set by data_root in the config"


def _check_folders(source: Source, spared: int) -> None:
    """Check the folders of a segmentation data set: images, and a label map for each."""
    dataset, where = source.dataset, source.where
    images = dataset.data_prefix.get("img_path")
    labels = dataset.data_prefix.get("seg_map_path")
    suffix = getattr(dataset, "img_suffix", None)
    if not images or suffix is None:
        return
    found = list(islice(Path(images).rglob(f"*{suffix}"), SAMPLES))
    if not found:
        hint = _root_hint(str(dataset.data_root or ""))
        raise UserError(f"{where}: no *{suffix} in {images}; {hint}")
    findings = Findings()
    reader, label_reader = source.image_reader(), source.label_reader() if labels else None
    for image in found:
        task = ImageTask(str(image))
        if label_reader is not None:
            name = str(image.relative_to(images)).removesuffix(suffix) + dataset.seg_map_suffix
            if not (Path(labels) / name).is_file():
                raise UserError(f"{where}: {image} has no label map {Path(labels) / name}")
            task = ImageTask(str(image), label_map=str(Path(labels) / name))
        findings.extend(find_faults(task, reader, label_reader))
    findings.extend(find_leftovers(source))
    _refuse(where, findings, spared)


def _check_coco(source: Source, spared: int) -> None:
    where, dataset = source.where, source.dataset
    path = Path(dataset.ann_file)
    findings = Findings()
    content = source.check_annotations(findings)
    _refuse(where, findings, spared)
    if absent := [name for name in source.classes if name not in content.names]:
        log(f"{where}: {len(absent)} classes have no category in {path}: {some(absent)}")
    images = list(content.images.values())
    findings, reader = Findings(), source.image_reader()
    for image in images[:: max(1, len(images) // SAMPLES)][:SAMPLES]:
        file = Path(dataset.data_prefix.get("img", ""), image.file_name)
        if not file.is_file():
            raise UserError(f"{where}: image {file}, listed in {path}, not found")
        task = ImageTask(str(file), (image.width, image.height), image.id)
        findings.extend(find_faults(task, reader, None))
    _refuse(where, findings, spared)


def _refuse(where: str, findings: Findings, spared: int) -> None:
    """Stop at errors, unless the run may leave out as many; log warnings in one line.

    Raises:
        UserError: Naming the first error.
    """
    # Whether any image is left, the data set itself knows once it is filtered.
    errors = findings.count(ERROR) - findings.counts[ERROR, "no-annotations"]
    of_samples = sum(findings.counts[ERROR, kind] for kind in PER_SAMPLE)
    if errors > min(of_samples, spared):
        first = findings.first_error
        others = f"; {errors} errors in all" if errors > 1 else ""
        mend = f"; {KINDS[first.kind].advice}" if first.kind in OF_THE_WHOLE else ""
        raise UserError(f"{where}: {first}; expected {first.expected}{mend}{others}; {ADVICE}")
    said = 0
    for level, kind, count, examples in findings.groups():
        if level == WARNING and kind in OF_THE_WHOLE:
            said += count
            for finding in examples:
                log(f"{where}: {finding}; expected {finding.expected}; {KINDS[kind].advice}")
    if noted := errors + findings.count(WARNING) - said:
        log(f"{where}: {noted} entries or files are not as they should be; {ADVICE}")
