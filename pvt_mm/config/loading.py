"""Reading a config with the command line's changes, and the changes that the tools make."""

import difflib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import print_log
from mmengine.runner import Runner

from pvt_mm.config.arguments import arguments_of
from pvt_mm.config.kinds import check_kinds
from pvt_mm.config.unread import EXTRA_KEYS, check_unread
from pvt_mm.errors import UserError
from pvt_mm.stack import version_of
from pvt_mm.wording import one_line

__all__ = [
    "CHECKOUT_CONFIGS",
    "check_options",
    "drop_pretrained",
    "find_forked_mmseg",
    "is_classification",
    "is_segmentation",
    "load_config",
    "log",
    "walk",
]

# A new key this similar to an existing one is taken for a typing error.
TYPO_RATIO = 0.82
# In a checkout a link to configs/, in a wheel a copy.
CHECKOUT_CONFIGS = (Path(__file__).resolve().parents[1] / ".mim" / "configs").resolve()


def log(message: str) -> None:
    """Log a line to the current logger, which is the console before a Runner stands."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print_log(message, logger="current")


def load_config(
    path: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    work_dir: str | os.PathLike | None = None,
    launcher: str = "none",
) -> Config:
    """Read a config and apply the command line's changes.

    Args:
        path: The config file.
        options: Dotted keys and values of ``--cfg-options``.
        work_dir: Overrides the config's ``work_dir``; without both it is ``work_dirs/NAME``.
        launcher: One of none, pytorch, slurm, mpi.

    Raises:
        UserError: If there is no such file or an option's key looks misspelt.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"config {path} not found{_nearest_configs(path)}")
    find_forked_mmseg()
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # whatever the file's Python, or that of a _base_, does
        raise UserError(f"config {path}: {one_line(error)}") from error
    if options:
        check_options(cfg, options)
        try:
            cfg.merge_from_dict(dict(options))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"--cfg-options cannot be merged: {error}") from error
    check_kinds(path, cfg)
    if path.suffix == ".py":
        check_unread(path)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / path.stem)
    return cfg


def find_forked_mmseg() -> None:
    """Let ``mmseg::`` name a fork: mmengine seeks the original's distribution, ours the module."""
    if find_spec("mmseg") and version_of("mmsegmentation") is None:
        MODULE2PACKAGE["mmseg"] = "mmseg"


def _nearest_configs(path: Path) -> str:
    folders = dict.fromkeys((path.parent, Path("configs"), CHECKOUT_CONFIGS))
    found = {file.stem: file for folder in folders for file in sorted(folder.glob("*.py"))}
    near = difflib.get_close_matches(path.stem, found, n=2, cutoff=0.5)
    if not near:
        return f"; the configs are in {CHECKOUT_CONFIGS}" if CHECKOUT_CONFIGS.is_dir() else ""
    return "; did you mean " + " or ".join(_short(found[name]) for name in near) + "?"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse option keys that look misspelt; log those that add something new.

    mmengine creates whatever key it is given, so a misspelt one would change nothing.

    Raises:
        UserError: If a part of a key is missing in the config while a similar one exists, or
            if a key's first part is neither in the config nor an argument of the Runner.
    """
    for key in options:
        node: Any = cfg._cfg_dict
        for depth, part in enumerate(key.split(".")):
            if isinstance(node, (list, tuple)):
                if not part.isdigit() or int(part) >= len(node):
                    raise UserError(f"--cfg-options {key}: {_list_hint(key, depth, node)}")
                node = node[int(part)]
            elif isinstance(node, Mapping) and part in node:
                node = node[part]
            else:
                _new_key(cfg, key, depth, node)
                break


def _list_hint(key: str, depth: int, items: Sequence) -> str:
    parent = ".".join(key.split(".")[:depth])
    return f"{parent} is a list of {len(items)}; expected an index from 0 to {len(items) - 1}"


def _new_key(cfg: Config, key: str, depth: int, node: Any) -> None:
    parts = key.split(".")
    siblings = [str(name) for name in node] if isinstance(node, Mapping) else []
    if depth == 0:
        known = EXTRA_KEYS | set(inspect.signature(Runner.__init__).parameters)
        if parts[0] in known:
            return
        siblings += sorted(known - {"self"})
    arguments = arguments_of(cfg, node) if depth else set()
    if parts[depth] in arguments:
        log(f"--cfg-options adds a new key: {key}")
        return
    siblings += sorted(arguments)
    cutoff = TYPO_RATIO if depth else 0.5
    near = difflib.get_close_matches(parts[depth], siblings, n=1, cutoff=cutoff)
    if near:
        right = ".".join([*parts[:depth], near[0], *parts[depth + 1 :]])
        raise UserError(f"--cfg-options {key}: no such key; did you mean {right}?")
    if depth == 0:
        raise UserError(f"--cfg-options {key}: the config has no key {parts[0]!r}")
    log(f"--cfg-options adds a new key: {key}")


def walk(node: Any, path: str = "") -> Iterator[tuple[str, ConfigDict]]:
    """Yield every dict inside ``node``, outermost first, with its dotted path."""
    if isinstance(node, Mapping):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f"{path}[{index}]")


def is_segmentation(cfg: Config) -> bool:
    """Whether this is a semantic segmentation config (mmseg's), not a detection config."""
    return cfg.get("default_scope") == "mmseg"


def is_classification(cfg: Config) -> bool:
    """Whether this is a classification config, not a detection or segmentation config."""
    return str(cfg.model.get("type")).endswith("Classifier")


def drop_pretrained(model: ConfigDict, reason: str) -> None:
    """Leave out pre-trained weights that a whole checkpoint will overwrite anyway."""
    for path, node in walk(model, "model"):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, Mapping) and init_cfg.get("type") == "Pretrained":
            log(f"{path}: {init_cfg.get('checkpoint')} is not loaded: {reason}")
            node["init_cfg"] = None
        if node.get("pretrained"):
            log(f"{path}: {node['pretrained']} is not loaded: {reason}")
            node["pretrained"] = None
