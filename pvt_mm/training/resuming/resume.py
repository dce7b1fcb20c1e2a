"""Make a training resumable, by the types of its config's loop and checkpoint hook."""

from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from pvt_mm.config.loading import log
from pvt_mm.training.resuming.atomic import check_writable
from pvt_mm.training.resuming.randomness import make_deterministic

__all__ = ["prepare_resumable"]

LOOPS = {
    "EpochBasedTrainLoop": "pvt_mm.ResumableEpochLoop",
    "IterBasedTrainLoop": "pvt_mm.ResumableIterLoop",
}
HOOKS = {"CheckpointHook": "pvt_mm.SafeCheckpointHook"}


def prepare_resumable(cfg: Config, deterministic: bool = False) -> None:
    """Let a run survive kills, and go on exactly where it was.

    Args:
        cfg: The config, changed in place before its Runner is built.
        deterministic: Whether the run is to compute the same every time, bit by bit.

    Raises:
        UserError: If the work directory cannot be written.
    """
    if is_main_process():
        check_writable(cfg.work_dir)
    if deterministic:
        make_deterministic(cfg)
    if "type" not in cfg.train_cfg:
        by_epoch = cfg.train_cfg.pop("by_epoch")
        cfg.train_cfg.type = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    _replace(cfg.train_cfg, LOOPS, "train_cfg")
    hooks = cfg.setdefault("default_hooks", {})
    if hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1}) is not None:
        _replace(hooks["checkpoint"], HOOKS, "default_hooks.checkpoint")


def _replace(node: dict[str, Any], replacements: dict[str, str], where: str) -> None:
    name = node["type"] if isinstance(node["type"], str) else node["type"].__name__
    replacement = replacements.get(name.removeprefix("mmengine."))
    if replacement is not None:
        node["type"] = replacement
    elif name not in replacements.values():
        log(f"{where}: {name} is not known to resume in the middle of an epoch")
