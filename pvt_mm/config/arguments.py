"""Arguments in a config that the class they are for does not take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISUALIZERS,
    Registry,
)

from pvt_mm.errors import UserError
from pvt_mm.wording import some

__all__ = ["arguments_of", "check_arguments"]

ROOTS = (MODELS, DATASETS, TRANSFORMS, METRICS, HOOKS, OPTIMIZERS, PARAM_SCHEDULERS)
# What mmengine takes out of a dict, or adds to it, when it builds the object.
TAKEN_OUT = {
    HOOKS: {"priority"},
    OPTIM_WRAPPERS: {"constructor", "optimizer", "paramwise_cfg"},
    PARAM_SCHEDULERS: {"convert_to_iter_based"},
}
ADDED = {"args", "dataloader", "dataset", "evaluator", "kwargs", "optimizer", "runner", "self"}
# Parts of a model that are one module each; what lies deeper may be anything, such as `norm_cfg`.
PARTS_OF_MODELS = ("backbone", "neck", "data_preprocessor")


def arguments_of(cfg: Config, node: Any) -> set[str]:
    """Return the names of the arguments of the class that a dict describes, if it does."""
    for root in ROOTS:
        kind = _class_of(cfg, node, root)
        if kind is not None:
            return _named(kind)
    return set()


def check_arguments(cfg: Config, splits: Sequence[str]) -> None:
    """Check the arguments of what a run builds but for its data sets, which are built early.

    Only classes are looked at that name all their arguments: nothing is said of one that passes
    ``**kwargs`` on to something else.

    Args:
        cfg: The config.
        splits: What will run: ``"train"``, ``"val"``, ``"test"``.

    Raises:
        UserError: Naming the first argument that a class does not take.
    """
    for where, node, root in _parts(cfg, splits):
        kind = _class_of(cfg, node, root)
        if kind is None or _is_open(kind, root):
            continue
        known = _named(kind) | TAKEN_OUT.get(root, set()) | {"type", "_scope_"}
        if unknown := sorted(node.keys() - known):
            takes = some(sorted(known - ADDED - {"type", "_scope_"}), 20)
            whole = f"To replace the whole {where} of a base config, write _delete_=True into it"
            raise UserError(
                f"{where} has {some(unknown)}, which {kind.__name__} does not take; it takes "
                f"{takes}{'' if where[-1].isdigit() else f'. {whole}'}"
            )


def _parts(cfg: Config, splits: Sequence[str]) -> Iterator[tuple[str, Mapping, Registry]]:
    """Yield the place, the dict and the registry of what a Runner builds."""
    for name, hook in (cfg.get("default_hooks") or {}).items():
        yield f"default_hooks.{name}", hook, HOOKS
    yield from _several(cfg, "custom_hooks", HOOKS)
    yield from _several(cfg, "visualizer", VISUALIZERS)
    processor = cfg.get("log_processor")
    if isinstance(processor, Mapping):
        yield "log_processor", {"type": "LogProcessor", **processor}, LOG_PROCESSORS
    for split in splits:
        yield from _several(cfg, f"{split}_evaluator", METRICS)
        loop, loader = cfg.get(f"{split}_cfg"), cfg.get(f"{split}_dataloader")
        if isinstance(loop, Mapping):
            yield f"{split}_cfg", _with_type(loop, split), LOOPS
        if isinstance(loader, Mapping):
            yield f"{split}_dataloader.sampler", loader.get("sampler"), DATA_SAMPLERS
    wrapper = cfg.get("optim_wrapper")
    if "train" in splits and isinstance(wrapper, Mapping):
        yield from _several(cfg, "param_scheduler", PARAM_SCHEDULERS)
        if "constructor" not in wrapper:
            yield "optim_wrapper", {"type": "OptimWrapper", **wrapper}, OPTIM_WRAPPERS
        yield "optim_wrapper.optimizer", wrapper.get("optimizer"), OPTIMIZERS
    yield from _modules(cfg.model, "model")


def _several(cfg: Config, key: str, root: Registry) -> Iterator[tuple[str, Mapping, Registry]]:
    value = cfg.get(key)
    if isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield f"{key}.{index}", one, root
    else:
        yield key, value, root


def _modules(model: Mapping, where: str) -> Iterator[tuple[str, Mapping, Registry]]:
    yield where, model, MODELS
    for name, part in model.items():
        if isinstance(part, Mapping) and (name in PARTS_OF_MODELS or name.endswith("_head")):
            yield from _modules(part, f"{where}.{name}")


def _with_type(loop: Mapping, split: str) -> Mapping:
    """Return a loop's dict with the type that mmengine would choose for it."""
    if "type" in loop:
        return loop
    if split != "train":
        return {"type": f"{split.capitalize()}Loop", **loop}
    kind = "EpochBasedTrainLoop" if loop.get("by_epoch") else "IterBasedTrainLoop"
    return {"type": kind, **{key: value for key, value in loop.items() if key != "by_epoch"}}


def _class_of(cfg: Config, node: Any, root: Registry) -> type | None:
    kind = node.get("type") if isinstance(node, Mapping) else None
    if isinstance(kind, str):
        scope = node.get("_scope_", cfg.get("default_scope", "mmengine"))
        with root.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return kind if isinstance(kind, type) else None


def _named(kind: type) -> set[str]:
    """Return the names of the arguments of a class and of its bases."""
    signatures = [inspect.signature(base.__init__) for base in kind.__mro__]
    return {name for signature in signatures for name in signature.parameters} - {"self"}


def _is_open(kind: type, root: Registry) -> bool:
    """Whether a class may take more arguments than it and its bases name."""
    for base in kind.__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(base.__init__).parameters.values()
            if all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters):
                return False
            if root is MODELS:  # heads such as MMDetection's MaskFormerHead drop what they get
                return True
    return True
