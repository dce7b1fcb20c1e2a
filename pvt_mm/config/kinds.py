"""What has to be of which type in a config."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pvt_mm.errors import UserError

__all__ = ["check_kinds", "dataset_configs"]

SPLITS = ("train", "val", "test")
# What has to be of which type wherever it is not None.
KINDS = {
    Mapping: ("model", "optim_wrapper", "env_cfg", "default_hooks", "auto_scale_lr")
    + tuple(f"{split}_dataloader" for split in SPLITS)
    + tuple(f"{split}_cfg" for split in SPLITS),
    str: ("load_from", "work_dir", "default_scope"),
}
# The same for every data set.
FIELDS = {
    "type": ((str, type), "a class's name"),
    "metainfo": (Mapping, "a dict"),
    "data_root": ((str, os.PathLike), "a folder"),
    "data_prefix": ((Mapping, str), "a dict or a folder"),
    "ann_file": ((str, os.PathLike), "a file"),
    "backend_args": (Mapping, "a dict"),
    "pipeline": (Sequence, "a list of transforms"),
    "_scope_": (str, "a text"),
}


def check_kinds(path: Path, cfg: Config) -> None:
    """Check the types of a config's parts and of its data sets' fields.

    Args:
        path: The config file, for messages.
        cfg: The config, with the command line's changes.

    Raises:
        UserError: Naming the first field of another type.
    """
    for kind, keys in KINDS.items():
        for key in keys:
            value = cfg.get(key)
            if value is not None and not isinstance(value, kind):
                expected = "a dict" if kind is Mapping else "a text"
                found = type(value).__name__
                raise UserError(f"config {path}: {key} must be {expected}, found {found}")
    _check_hooks(path, cfg)
    if cfg.get("model") is None:
        raise UserError(f"config {path}: there is no model")
    for split in SPLITS:
        loader = cfg.get(f"{split}_dataloader")
        if loader is None:
            continue
        if not isinstance(loader.get("dataset"), Mapping):
            raise UserError(f"config {path}: {split}_dataloader.dataset must be a dict")
        for where, dataset in dataset_configs(loader["dataset"], f"{split}_dataloader.dataset"):
            _check_fields(f"config {path}: {where}", dataset)


def dataset_configs(node: Any, where: str) -> Iterator[tuple[str, Mapping]]:
    """Yield the configs of the real data sets inside wrappers such as RepeatDataset.

    Args:
        node: The config of a data set or of a wrapper.
        where: Its place in the config.

    Yields:
        The place and the config of each.
    """
    if isinstance(node.get("dataset"), Mapping):
        yield from dataset_configs(node["dataset"], f"{where}.dataset")
    elif isinstance(node.get("datasets"), (list, tuple)):
        for index, inner in enumerate(node["datasets"]):
            yield from dataset_configs(inner, f"{where}.datasets.{index}")
    else:
        yield where, node


def _check_hooks(path: Path, cfg: Config) -> None:
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if not isinstance(checkpoint, Mapping):
        where = "default_hooks.checkpoint"
        raise UserError(
            f"config {path}: {where} is {checkpoint!r}, not a dict; write {where}=dict(...)"
        )
    hooks = cfg.get("custom_hooks") or ()
    if not isinstance(hooks, (list, tuple)):
        raise UserError(
            f"config {path}: custom_hooks is {hooks!r}, not a list of dicts with type=..."
        )


def _check_fields(where: str, dataset: Mapping) -> None:
    for key, (kind, expected) in FIELDS.items():
        value = dataset.get(key)
        if value is not None and not isinstance(value, kind):
            raise UserError(f"{where}.{key} must be {expected}, found {value!r}")
    classes = (dataset.get("metainfo") or {}).get("classes", ())
    where = f"{where}.metainfo.classes"
    if isinstance(classes, str):
        # Of a text that names no file, mmengine would take the letters.
        if not Path(classes).is_file():
            raise UserError(
                f"{where} must be the classes' names or a file of them, found the text "
                f"{classes!r}, and no such file; a tuple of one name needs a comma: ({classes!r},)"
            )
        return
    if not isinstance(classes, Sequence):
        raise UserError(f"{where} must be the classes' names or a file of them, found {classes!r}")
    for name in classes:
        if not isinstance(name, str):
            raise UserError(f"{where} must be texts, found {name!r}")
        if classes.count(name) > 1:
            raise UserError(f"{where} must name each class once, found {name!r} twice")
