"""Where a training's scalars and pictures go beside the work directory."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pvt_mm.errors import UserError

__all__ = ["TRACKERS", "use_trackers"]

TRACKERS = ("tensorboard", "wandb", "mlflow")


def use_trackers(cfg: Config, tracker: str | None = None) -> None:
    """Add backends to the config's visualizer, in place.

    TensorBoard writes into the work directory and is used wherever it is installed. The others
    talk to a server, so they are used when they are asked for only.

    Args:
        cfg: A config for training.
        tracker: One of :data:`TRACKERS`, or None.

    Raises:
        UserError: If the package is not installed, or the config has no visualizer.
    """
    visualizer = cfg.get("visualizer")
    if tracker is not None and find_spec(tracker) is None:
        raise UserError(f"--log-to {tracker}: not installed; python -m pip install {tracker}")
    if visualizer is None:
        if tracker is not None:
            raise UserError(f"--log-to {tracker}: the config has no visualizer to add it to")
        return
    wanted = {tracker} if tracker is not None else set()
    if find_spec("tensorboard") is not None:
        wanted.add("tensorboard")
    backends = list(visualizer.get("vis_backends") or ())
    present = {str(backend.get("type")).rpartition(".")[2] for backend in backends}
    for name in sorted(wanted):
        backend = _backend(name, Path(cfg.work_dir).name)
        if backend["type"] not in present:
            backends.append(backend)
    visualizer.vis_backends = backends


def _backend(name: str, run: str) -> dict[str, Any]:
    if name == "wandb":
        return {"type": "WandbVisBackend", "init_kwargs": {"project": "pvt_mm", "name": run}}
    if name == "mlflow":
        return {"type": "MLflowVisBackend", "exp_name": "pvt_mm", "run_name": run}
    return {"type": "TensorboardVisBackend"}
