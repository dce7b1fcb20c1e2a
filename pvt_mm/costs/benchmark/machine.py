"""Where and with what a measurement was made."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pvt_mm.version import __version__

__all__ = ["describe_machine"]

PACKAGES = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmsegmentation", "timm", "transformers")
SPEED_VARIABLES = (
    "OMP_",
    "GOMP_",
    "MALLOC_",
    "ONEDNN_",
    "LD_PRELOAD",
    "PVT_MM_ALLOCATOR",
    "PVT_MM_KERNELS",
)


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Processor and what PyTorch uses of it, threads, load and versions, for the head of a report.

    Args:
        device: ``'cpu'`` or ``'cuda'``.
    """
    versions = {"python": platform.python_version(), "pvt_mm": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    versions["torch"] = torch.__version__
    found: dict[str, Any] = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "environment": {
            # Of a library that is loaded first, such as another malloc, its name will do.
            key: value.rpartition("/")[2]
            for key, value in sorted(os.environ.items())
            if key.startswith(SPEED_VARIABLES)
        },
        "versions": versions,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
