"""Top-level keys of a config file that nothing reads: of the 2.x style, misspelt, left over."""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import re
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import Runner

from pvt_mm.errors import UserError
from pvt_mm.wording import some

__all__ = ["EXTRA_KEYS", "check_unread"]

# Keys that mm's tools, and ours, read from the config though Runner's signature lacks them.
EXTRA_KEYS = {"find_unused_parameters", "sync_bn", "compile", "runner_type", "model_wrapper_cfg"}
OURS = {
    "custom_imports",
    "data_preprocessor",
    "skip_bad_images",
    "strategy",
    "test_pipeline",
    "tta_model",
    "tta_pipeline",
}
# What took the place of the keys of MMDetection 2.x and MMSegmentation 0.x.
OLD = {
    "checkpoint_config": "default_hooks.checkpoint",
    "cudnn_benchmark": "env_cfg.cudnn_benchmark",
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "dist_params": "env_cfg.dist_cfg",
    "evaluation": "val_evaluator, train_cfg.val_interval and default_hooks.checkpoint.save_best",
    "fp16": "optim_wrapper.type='AmpOptimWrapper', or --amp",
    "gpu_ids": "CUDA_VISIBLE_DEVICES",
    "log_config": "default_hooks.logger and visualizer",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "mp_start_method": "env_cfg.mp_cfg",
    "opencv_num_threads": "env_cfg.mp_cfg",
    "optimizer_config": "optim_wrapper",
    "resume_from": "load_from and resume=True",
    "runner": "train_cfg",
    "total_epochs": "train_cfg.max_epochs",
    "total_iters": "train_cfg.max_iters",
    "workflow": "train_cfg, val_cfg and test_cfg",
}
# So similar to a key that is read, a key that is not is taken for a typing error.
TYPO_RATIO = 0.88


def check_unread(path: Path) -> None:
    """Refuse keys that were meant for something; name others that nothing reads.

    Args:
        path: The config file. Its ``_base_`` files are taken as they are.

    Raises:
        UserError: If the file sets a key of the 2.x style, or one that looks misspelt.
    """
    known = (set(inspect.signature(Runner.__init__).parameters) | EXTRA_KEYS | OURS) - {"self"}
    text = path.read_text()
    unread = [name for name in _unread(text) if name not in known]
    for name in unread:
        if name in OLD:
            raise UserError(
                f"config {path}: nothing reads {name}, which is of the 2.x style; "
                f"set {OLD[name]} instead"
            )
        # Where both stand, as in the whole config that a run of mmseg's dumps, it has been used.
        if name == "optimizer" and not re.search(r"^optim_wrapper\b", text, re.MULTILINE):
            raise UserError(
                f"config {path}: nothing reads optimizer; set optim_wrapper.optimizer instead"
            )
        # A base may define a helper of such a name, which is no typing error.
        if near := difflib.get_close_matches(name, known, n=1, cutoff=TYPO_RATIO):
            raise UserError(f"config {path}: nothing reads {name}; did you mean {near[0]}?")
    if unread:
        print_log(
            f"config {path}: nothing reads {some(unread, 5)}: a value of a _base_ file is not "
            "changed where that file has used it; set the key in which it is used, such as "
            "train_dataloader.dataset.pipeline",
            logger="current",
            level=logging.WARNING,
        )


def _unread(text: str) -> list[str]:
    """List the names that a file assigns at its top level and does not use itself."""
    tree = ast.parse(text)
    assigned: dict[str, None] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
            assigned |= {part.id: None for part in parts if isinstance(part, ast.Name)}
    used = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    if (
        not used & assigned.keys()
        and "_base_" not in assigned
        and list(assigned) == sorted(assigned)
    ):
        return []  # mmengine wrote it, with all values and helpers of the config that was run
    used |= set(re.findall(r"_base_\.(\w+)", text))
    return [name for name in assigned if name not in used and not name.startswith("_")]
