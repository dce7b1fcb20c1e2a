"""Whether an evaluator's annotation file is that of the data set it scores."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pvt_mm.config.loading import walk
from pvt_mm.data.checks import Finding
from pvt_mm.data.dataset_sources import Source, labels_come_last
from pvt_mm.errors import UserError
from pvt_mm.wording import some

__all__ = ["check_evaluators"]

# Metrics that compare with the labels that the pipeline loads, others read the files.
OF_THE_PIPELINE = ("VOCMetric", "IoUMetric", "SemSegMetric")


def _files(cfg: Config, split: str) -> Iterator[tuple[str, Mapping]]:
    """Yield the annotation files that a split's CocoMetrics read, and the metrics' configs.

    Raises:
        UserError: If an evaluator's file on this disk is missing.
    """
    for where, node in walk(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
        path = node.get("ann_file")
        if isinstance(path, str) and "://" not in path:
            if not Path(path).exists():
                raise UserError(f"{where}: annotation file {path} not found")
            if str(node.get("type")).rpartition(".")[2] == "CocoMetric":
                yield path, node


def check_evaluators(cfg: Config, split: str, sources: Sequence[Source]) -> Iterator[Finding]:
    """Check that a split's evaluators score against the labels of the data sets that are tested.

    Args:
        cfg: The whole config.
        split: Of 'train', 'val' and 'test'.
        sources: The split's data sets, their annotation files sound.

    Yields:
        What is wrong.

    Raises:
        UserError: If an evaluator's file is missing.
    """
    yield from _check_order(cfg, split, sources)
    yield from _check_voc(cfg, split, sources)
    files = list(_files(cfg, split))
    if sources and all(source.is_coco and source.reads_coco for source in sources):
        for path, metric in files:
            yield from _check_file(path, metric, sources)


def _check_order(cfg: Config, split: str, sources: Sequence[Source]) -> Iterator[Finding]:
    """Check that labels are left as they are: predictions are scaled back to the image's size."""
    kinds = [str(node.get("type")) for _, node in walk(cfg.get(f"{split}_evaluator"))]
    metrics = [kind for kind in kinds if kind.rpartition(".")[2] in OF_THE_PIPELINE]
    for source in sources if metrics else ():
        if labels_come_last(source.dataset) is False:
            found = f"LoadAnnotations stands before a Resize, and {metrics[0]} scores what it loads"
            yield Finding("evaluator-labels", found, source.name)


def _check_voc(cfg: Config, split: str, sources: Sequence[Source]) -> Iterator[Finding]:
    """Check that VOCMetric will name the classes: in VOC's own folders it takes VOC's names."""
    kinds = [str(node.get("type")) for _, node in walk(cfg.get(f"{split}_evaluator"))]
    if not any(kind.rpartition(".")[2] == "VOCMetric" for kind in kinds):
        return
    from mmdet.evaluation import get_classes

    theirs = get_classes("voc")
    for source in sources:
        year, classes = source.dataset.metainfo.get("dataset_type"), source.classes
        if year not in ("VOC2007", "VOC2012") or classes == tuple(theirs[: len(classes)]):
            continue
        kind = "evaluator-names" if len(classes) <= len(theirs) else "evaluator-more"
        found = f"{year} in the path, where VOCMetric prints {theirs[0]!r} for {classes[0]!r}"
        if kind == "evaluator-more":
            found = (
                f"{year} in the path, where VOCMetric has {len(theirs)} names, for {len(classes)}"
            )
        yield Finding(kind, found, str(source.dataset.data_root or source.name))


def _check_file(path: str, metric: Mapping, sources: Sequence[Source]) -> Iterator[Finding]:
    """Check that a file in COCO's format has the data sets' images, classes and objects.

    A CocoMetric finds an image's truth by its id, and mmdet's finds a label's category by its
    place: in a file of another split or order it scores against something else without a word.

    Args:
        path: The file.
        metric: The config of the metric that reads it.
        sources: The data sets that the evaluator scores, each of a sound annotation file.

    Yields:
        What is wrong with the file.
    """
    files = [source.name for source in sources]
    mine = _content(path)
    if mine is None or not files:
        return
    beside = some(files)
    classes = sources[0].classes
    listed = [entry for entry in mine["categories"] if entry["name"] in classes]
    named, ids = [entry["name"] for entry in listed], [entry["id"] for entry in listed]
    by_name = str(metric["type"]).startswith("pvt_mm.")
    ordered = sorted if by_name else list
    if ordered(named) != ordered(classes):
        found = f"categories {some(named, 5)}, but classes {some(classes, 5)}"
        yield Finding("evaluator-file", f"{found} of {beside}", path)
        return
    if metric.get("classwise") and not by_name and ids != sorted(ids):
        found = f"ids {some(ids, 5)} of {some(named, 5)}, which CocoMetric names in rising order"
        yield Finding("evaluator-classwise", found, path)
    if len(files) == 1 and os.path.samefile(path, files[0]):
        return
    theirs = [_content(file) for file in files]
    if None in theirs:
        return
    own = _images(mine)
    tested: dict[Any, tuple] = {}
    for content, file in zip(theirs, files, strict=True):
        for key, image in _images(content).items():
            if key in tested:
                found = f"image id {key} is in more than one of {beside}"
                yield Finding("evaluator-file", found, path, key)
                return
            tested[key] = image
            if own.get(key) != image:
                there = f"is {own[key][0]!r} in it" if key in own else "is not in it"
                found = f"image {key} of {file}, {image[0]!r}, {there}"
                yield Finding("evaluator-file", found, path, key)
                return
    if extra := own.keys() - tested.keys():
        found = (
            f"{len(extra)} images that are not in {beside}, such as "
            f"{own[min(extra, key=str)][0]!r}, would count as missed"
        )
        yield Finding("evaluator-file", found, path)
    elif any(content.get("annotations") for content in theirs):
        whole = Counter()
        for content in theirs:
            whole += _objects(content)
        if other := sum(((whole - _objects(mine)) + (_objects(mine) - whole)).values()):
            found = f"{other} objects that it and {beside} do not share"
            yield Finding("evaluator-file", found, path)


def _content(path: str) -> dict | None:
    """Read a file in COCO's format; ``None`` if it is of another one, as panoptic files are."""
    try:
        content = json.loads(Path(path).read_bytes())
        parts = content["images"], content["categories"], content.get("annotations", [])
        if any("segments_info" in entry for entry in parts[2]):
            return None
        ids = [entry["id"] for entry in parts[0]]
        ids += [entry["category_id"] for entry in parts[2]]
        names = [entry["name"] for entry in parts[1]]
        return content if ids and names else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _images(content: Mapping) -> dict[Any, tuple]:
    return {
        entry["id"]: (entry.get("file_name"), entry.get("width"), entry.get("height"))
        for entry in content["images"]
    }


def _objects(content: Mapping) -> Counter:
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    return Counter(
        (entry.get("image_id"), names.get(entry["category_id"]), str(entry.get("bbox")))
        for entry in content.get("annotations", [])
    )
