"""What a training of ours declares in its config, and how a config that lacks it gets it.

``configs/_base_/hooks.py`` and the recipes that inherit it say the same, so that every entry
point starts the same training. A config of another project gets it here, from our tools.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from pvt_mm.config.loading import log

__all__ = ["CUSTOM_HOOKS", "declare", "declared_hook"]

# As in configs/_base_/hooks.py, in this order: hooks of equal priority are called by it.
CUSTOM_HOOKS = (
    "pvt_mm.AccelerateHook",
    "pvt_mm.Float32BoxesHook",
    "pvt_mm.MatchingKeysHook",
    "pvt_mm.ScheduleHook",
    "pvt_mm.EvidenceHook",
    "pvt_mm.BadSamplesHook",
    "pvt_mm.DivergenceHook",
    "pvt_mm.InterruptionHook",
)
# Ours in the place of mmengine's, which take the same arguments.
WRAPPERS = {"AmpOptimWrapper": "pvt_mm.AmpOptimWrapper"}
LOOPS = {
    "EpochBasedTrainLoop": "pvt_mm.ResumableEpochLoop",
    "IterBasedTrainLoop": "pvt_mm.ResumableIterLoop",
}
CHECKPOINT_HOOKS = {"CheckpointHook": "pvt_mm.SafeCheckpointHook"}


def declare(cfg: Config) -> None:
    """Add to a config what it lacks of our hooks and types; one that has them stays as it is.

    Args:
        cfg: The config, changed in place before its Runner is built.
    """
    hooks = list(cfg.get("custom_hooks") or ())
    present = {_name(hook) for hook in hooks}
    cfg.custom_hooks = hooks + [{"type": kind} for kind in CUSTOM_HOOKS if kind not in present]
    if cfg.get("optim_wrapper"):
        _replace(cfg.optim_wrapper, WRAPPERS)
    if cfg.get("train_cfg"):
        if "by_epoch" in cfg.train_cfg:
            by_epoch = cfg.train_cfg.pop("by_epoch")
            cfg.train_cfg.type = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
        _replace(cfg.train_cfg, LOOPS, "train_cfg")
    usual = {"checkpoint": {"type": "CheckpointHook", "interval": 1}}
    cfg.default_hooks = {**usual, **(cfg.get("default_hooks") or {})}
    if cfg.default_hooks.checkpoint is not None:
        _replace(cfg.default_hooks.checkpoint, CHECKPOINT_HOOKS, "default_hooks.checkpoint")


def declared_hook(cfg: Config, kind: str) -> ConfigDict:
    """Return the hook's dict in a config that went through :func:`declare`, to change it.

    Args:
        cfg: The config.
        kind: The type's name, as ``"pvt_mm.DivergenceHook"``.
    """
    return next(hook for hook in cfg.custom_hooks if _name(hook) == kind)


def _replace(node: dict[str, Any], replacements: dict[str, str], resumes: str = "") -> None:
    name = _name(node)
    replacement = replacements.get(name)
    if replacement is not None:
        node["type"] = replacement
    elif resumes and name not in replacements.values():
        log(f"{resumes}: {name} is not known to resume in the middle of an epoch")


def _name(node: Mapping[str, Any]) -> str:
    """Name a type that may be given as a class; ours with the scope, mmengine's without."""
    kind = node.get("type")
    if isinstance(kind, type):
        return "pvt_mm." * kind.__module__.startswith("pvt_mm.") + kind.__name__
    return str(kind).removeprefix("mmengine.")
