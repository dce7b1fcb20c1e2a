"""Checks of the data sets that a run is going to use, before it starts."""

import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from .config import log, walk
from .errors import UserError, some

__all__ = ["check_data"]

# How many of a data set's images are looked for.
SAMPLES = 8
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
# Heads that count something else than the data set's classes.
OTHER_HEADS = ("rpn_head", "semantic_head", "panoptic_head", "panoptic_fusion_head")


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
    checked: dict[Path, dict] = {}
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if loader is None:
            continue
        for where, dataset_cfg in _datasets(loader["dataset"], f"{split}_dataloader.dataset"):
            dataset = _build(dataset_cfg, cfg.get("default_scope", "mmengine"))
            if dataset is None:
                continue
            _check_files(where, dataset, checked, read_annotations)
            _check_heads(cfg, where, dataset)
            # A data set may know more about itself, as a classifier's does.
            find_problem = getattr(dataset, "find_problem", None)
            if find_problem and (problem := find_problem(cfg.model)):
                raise UserError(f"{where}: {problem}")
        _check_evaluator(cfg, split)


def _datasets(node: Any, where: str) -> Iterator[tuple[str, Mapping]]:
    """Yield the configs of the real data sets inside wrappers such as RepeatDataset."""
    if isinstance(node.get("dataset"), Mapping):
        yield from _datasets(node["dataset"], f"{where}.dataset")
    elif isinstance(node.get("datasets"), (list, tuple)):
        for index, inner in enumerate(node["datasets"]):
            yield from _datasets(inner, f"{where}.datasets.{index}")
    else:
        yield where, node


def _build(dataset_cfg: Mapping, scope: str) -> BaseDataset | None:
    """Build a data set that has its paths and classes but no annotations.

    Returns:
        The data set, or ``None`` if it is of a kind we know nothing about or not on this disk.
    """
    backend = (dataset_cfg.get("backend_args") or {}).get("backend", "local")
    if backend not in ("local", "LocalBackend") or "://" in str(dataset_cfg.get("data_root")):
        return None
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = dataset_cfg.get("type")
        kind = registry.get(kind) if isinstance(kind, str) else kind
        if not isinstance(kind, type) or not issubclass(kind, BaseDataset):
            return None
        try:
            return registry.build({**dataset_cfg, "pipeline": [], "lazy_init": True})
        except TypeError:  # its class does not take these arguments
            return None


def _check_files(
    where: str, dataset: BaseDataset, checked: dict[Path, dict], read_annotations: bool
) -> None:
    hint = _root_hint(str(dataset.data_root or ""))
    for name, folder in dataset.data_prefix.items():
        if folder and not Path(folder).is_dir():
            raise UserError(f"{where}: folder {folder} ({name}) not found; {hint}")
    ann_file = Path(dataset.ann_file) if dataset.ann_file else None
    if ann_file is not None and not ann_file.exists():
        raise UserError(f"{where}: annotation file {ann_file} not found; {hint}")
    if not read_annotations:
        return
    if ann_file is None or ann_file.is_dir():
        _check_folders(where, dataset, hint)
    elif ann_file.suffix == ".json" and hasattr(dataset, "COCOAPI"):
        if ann_file not in checked:
            checked[ann_file] = _read_coco(where, ann_file)
        _check_coco(where, dataset, ann_file, checked[ann_file])


def _root_hint(data_root: str) -> str:
    for variable, default, layout in ROOTS:
        root = os.environ.get(variable, default)
        if data_root and os.path.normpath(data_root) == os.path.normpath(root):
            hint = f"the data root is {data_root} (set {variable} to change it), {layout}"
            return hint if variable == "DEMO_ROOT" else f"{hint}; `make demo` needs no download"
    return f"the data root is {data_root or 'not set'}, set by data_root in the config"


def _check_folders(where: str, dataset: BaseDataset, hint: str) -> None:
    """Check the folders of a segmentation data set: images, and a label map for each."""
    images = dataset.data_prefix.get("img_path")
    labels = dataset.data_prefix.get("seg_map_path")
    suffix = getattr(dataset, "img_suffix", None)
    if not images or suffix is None:
        return
    found = list(islice(Path(images).rglob(f"*{suffix}"), SAMPLES))
    if not found:
        raise UserError(f"{where}: no *{suffix} in {images}; {hint}")
    for image in found if labels else ():
        name = str(image.relative_to(images)).removesuffix(suffix) + dataset.seg_map_suffix
        if not (Path(labels) / name).is_file():
            raise UserError(f"{where}: {image} has no label map {Path(labels) / name}")


def _read_coco(where: str, path: Path) -> dict:
    """Read a COCO annotation file and check that it is one."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: {path} is not valid JSON ({error}); is the download complete?"
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{where}: {path} has no list {key!r}, so it is not in COCO format")
    if not content["images"]:
        raise UserError(f"{where}: {path} lists no images")
    # The annotations are most of the file and are not needed any more.
    return {
        "files": [image.get("file_name") for image in content["images"][:SAMPLES]],
        "names": [category.get("name") for category in content["categories"]],
    }


def _check_coco(where: str, dataset: BaseDataset, path: Path, content: dict) -> None:
    for name in content["files"]:
        image = Path(dataset.data_prefix.get("img", ""), str(name))
        if not image.is_file():
            raise UserError(f"{where}: image {image}, listed in {path}, not found")
    classes = dataset.metainfo.get("classes") or ()
    absent = [name for name in classes if name not in content["names"]]
    if classes and len(absent) == len(classes):
        raise UserError(
            f"{where}: none of the data set's classes ({some(classes)}) is a category of {path} "
            f"({some(content['names'])}); set metainfo.classes of the data set"
        )
    if absent:
        log(f"{where}: {len(absent)} classes have no category in {path}: {some(absent)}")


def _check_evaluator(cfg: Config, split: str) -> None:
    for where, node in walk(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
        path = node.get("ann_file")
        if isinstance(path, str) and "://" not in path and not Path(path).exists():
            raise UserError(f"{where}: annotation file {path} not found")


def _check_heads(cfg: Config, where: str, dataset: BaseDataset) -> None:
    classes = dataset.metainfo.get("classes")
    if not classes:
        return
    for path, node in walk(cfg.model, "model"):
        names = [part.split("[")[0] for part in path.split(".")]
        # An own count is a plain number of the head itself, not of its loss.
        if not names[-1].endswith("_head") or names[-1] in OTHER_HEADS:
            continue
        count = node.get("num_classes")
        if isinstance(count, int) and count != len(classes):
            raise UserError(
                f"{path}.num_classes is {count}, but {where} has {len(classes)} classes "
                f"({some(classes)}); make them agree"
            )
