"""What mmcv's CUDA build needs: a list of architectures, a compiler, and headers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from . import checks
from .venv import SetupError, Venv, say

# Without a card to ask and without TORCH_CUDA_ARCH_LIST: code for Turing, Ampere with Ada, Hopper,
# and PTX, which newer cards compile when they first run it.
DEFAULT_ARCHS = "7.5;8.0;9.0+PTX"
# The compiler's parts among NVIDIA's Python packages.
PACKAGES = (
    "nvidia-cuda-nvcc",
    "nvidia-cuda-crt",
    "nvidia-nvvm",
    "nvidia-cuda-runtime",
    "nvidia-cuda-cccl",
)


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
    home = home_of(nvcc) if checks.fits(nvcc, torch_cuda) else fetch(venv, torch_cuda)
    variables["CUDA_HOME"] = str(home)
    # A toolkit made of the compiler's packages alone lacks the headers of cuBLAS, cuSPARSE and
    # cuSOLVER that torch's own headers include; torch's CUDA packages bring them.
    headers = venv.site / "nvidia" / f"cu{torch_cuda.split('.')[0]}" / "include"
    if not (home / "include" / "cusparse.h").is_file() and headers.is_dir():
        variables["CUDA_INC_PATH"] = str(headers)
    return variables


def fetch(venv: Venv, torch_cuda: str) -> Path:
    """Make a toolkit of NVIDIA's Python packages, in the environment's build folder.

    Nothing outside that folder changes, and it goes when mmcv is there.

    Args:
        venv: The environment.
        torch_cuda: The CUDA version of its torch, such as ``13.0``.

    Returns:
        The toolkit's folder.
    """
    folder = venv.build / "cuda"
    home = folder / "nvidia" / f"cu{torch_cuda.split('.')[0]}"
    done = folder / "complete"
    if done.is_file() and done.read_text() == torch_cuda:
        return home
    shutil.rmtree(folder, ignore_errors=True)
    say(f"no nvcc for CUDA {torch_cuda} here: fetching NVIDIA's Python packages of it (0.3 GB)")
    pins = (f"{name}=={torch_cuda}.*" for name in PACKAGES)
    venv.pip("install", "--quiet", "--no-deps", "--target", str(folder), *pins)
    if not (home / "bin" / "nvcc").is_file():
        raise SetupError(
            f"NVIDIA's packages brought no {home}/bin/nvcc; set CUDA_HOME to a toolkit"
        )
    # What compilers and torch look for in a toolkit, under names that the packages leave out.
    (home / "lib64").symlink_to("lib")
    for library in (home / "lib").glob("lib*.so.*"):
        link = library.with_name(library.name.partition(".so.")[0] + ".so")
        if not link.exists():
            link.symlink_to(library.name)
    done.write_text(torch_cuda)
    return home


def home_of(nvcc: str) -> Path:
    """Return the folder of an nvcc's toolkit, with ``bin`` and ``include``.

    It asks nvcc: the command on the PATH may be a script or a link that lies elsewhere.
    """
    command = [nvcc, "-dryrun", "-E", "-x", "cu", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"^#\$ _HERE_=(.+)$", done.stderr, re.MULTILINE)
    folder = Path(found[1]) if found else Path(nvcc).resolve().parent
    return folder.parent
