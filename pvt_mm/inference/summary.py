"""What is noted about a run: how it was made, and what came of it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pvt_mm.checkpoints.download import cached_path, sha256_of
from pvt_mm.files import replacing
from pvt_mm.inference.pipeline import is_url
from pvt_mm.stack import REQUIREMENTS
from pvt_mm.version import __version__

__all__ = ["conclusion", "describe_checkpoint", "device_name", "versions", "write_summary"]


def describe_checkpoint(path: str) -> dict[str, str | None]:
    """Return a checkpoint's path and, if it is a file or kept as one, its SHA-256."""
    file = cached_path(path) if is_url(path) else Path(path).expanduser()
    return {"path": path, "sha256": sha256_of(file) if file.is_file() else None}


def device_name(device: torch.device) -> str:
    """Return the device, with its make if it is a GPU."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def versions() -> dict[str, str]:
    """Return the versions of what predicts, as far as it is installed."""
    found = {"pvt_mm": __version__, "numpy": np.__version__, "opencv": cv2.__version__}
    for requirement in REQUIREMENTS:
        for name in (requirement.distribution, *requirement.forks):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``."""
    with replacing(folder / "summary.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")


def conclusion(folder: Path, summary: dict[str, Any]) -> str:
    """Say in a line what came of a run."""
    words = [f"{summary['images']} images, {summary['images_per_second']:.2f} images/s"]
    if "detections" in summary:
        words.append(f"{sum(summary['detections'].values())} objects")
    if summary["failed"]:
        words.append(f"{len(summary['failed'])} of {len(summary['inputs'])} inputs not read")
    if summary["interrupted"]:
        words.append("interrupted")
    return f"{'; '.join(words)}: results are in {folder.absolute()}"
