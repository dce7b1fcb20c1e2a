"""What mmcv's CUDA build needs besides a compiler: a list of architectures, and headers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from . import checks
from .venv import Venv

# Without a card to ask and without TORCH_CUDA_ARCH_LIST: code for Turing, Ampere with Ada, Hopper,
# and PTX, which newer cards compile when they first run it.
DEFAULT_ARCHS = "7.5;8.0;9.0+PTX"


def arch_list(cards: tuple[str, ...]) -> str:
    """Return the architectures to build for, as TORCH_CUDA_ARCH_LIST takes them.

    Args:
        cards: The compute capabilities of this machine's cards, such as ``("8.0", "9.0")``.
    """
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(cards) or DEFAULT_ARCHS


def build_variables(venv: Venv, torch_cuda: str, cards: tuple[str, ...]) -> dict[str, str]:
    """Return the environment variables of a CUDA build.

    Args:
        venv: The environment with torch's CUDA build.
        torch_cuda: The CUDA version of that torch, such as ``13.0``.
        cards: The compute capabilities of this machine's cards.
    """
    variables = {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": arch_list(cards)}
    nvcc = checks.find_nvcc()
    if nvcc:
        home = home_of(nvcc)
        variables["CUDA_HOME"] = str(home)
        # A toolkit made of the compiler's packages alone lacks the headers of cuBLAS, cuSPARSE and
        # cuSOLVER that torch's own headers include; torch's CUDA packages bring them.
        headers = venv.site / "nvidia" / f"cu{torch_cuda.split('.')[0]}" / "include"
        if not (home / "include" / "cusparse.h").is_file() and headers.is_dir():
            variables["CUDA_INC_PATH"] = str(headers)
    return variables


def home_of(nvcc: str) -> Path:
    """Return the folder of an nvcc's toolkit, with ``bin`` and ``include``.

    It asks nvcc: the command on the PATH may be a script or a link that lies elsewhere.
    """
    command = [nvcc, "-dryrun", "-E", "-x", "cu", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"^#\$ _HERE_=(.+)$", done.stderr, re.MULTILINE)
    folder = Path(found[1]) if found else Path(nvcc).resolve().parent
    return folder.parent
