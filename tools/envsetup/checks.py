"""What the machine must offer, checked before anything long starts."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from . import advice

GIB = 1 << 30
# The environment takes about 2 GB with torch's CPU build and 8 GB with its CUDA build; the rest is
# for pip's downloads and mmcv's build.
NEEDED_GIB, NEEDED_CUDA_GIB, NEEDED_TMP_GIB = 4, 12, 1
# From this CUDA on, NVIDIA's Python packages are parts of one folder, laid out as a toolkit is.
OLDEST_PACKAGED = 13

_CPP_PROBE = """
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 9
#error "GCC 9 or newer is needed"
#endif
#include <optional>
int main() { return std::optional<int>(0).value(); }
"""


def _how(need: str, from_where: str = "") -> str:
    """Say how to get something that is missing, on this system.

    Args:
        need: A need of `advice.SYSTEMS`.
        from_where: What to do on a system that has no package of it.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    command = advice.install(need, [version])
    words = f"install it ({command})" if command else from_where
    other = advice.other_python() if need in ("headers", "venv") else None
    return f"{words}, or take another Python: PYTHON={other}" if other else words


def venv_problem() -> str | None:
    """Say what keeps this Python from creating environments, if anything."""
    missing = [m for m in ("venv", "ensurepip", "ssl") if importlib.util.find_spec(m) is None]
    if not missing:
        return None
    how = _how("venv", "this system has no package of it; install the whole of this Python again")
    return (
        f"{sys.executable} has no module {', '.join(missing)}, needed to create the environment: "
        f"{how}"
    )


def disk_problem(folder: Path, needed_gib: float, what: str) -> str | None:
    """Say how much space is missing on a folder's disk, if any."""
    existing = next(p for p in (folder, *folder.parents) if p.is_dir())
    free = shutil.disk_usage(existing).free / GIB
    if free >= needed_gib:
        return None
    return (
        f"{existing} has {free:.1f} GB free, {what} needs {needed_gib:g} GB: free some space or "
        "choose another disk with "
        + ("TMPDIR=..." if "temporary" in what else "VENV=... (make demo VENV=/big/disk/venv)")
    )


def library_problem() -> str | None:
    """Say which system libraries opencv-python misses, if any."""
    missing = []
    for name in ("libGL.so.1", "libgthread-2.0.so.0"):
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    if not missing:
        return None
    return f"OpenCV needs {' and '.join(missing)}: {_how('opencv', 'install these libraries')}"


def compiler_problem() -> str | None:
    """Say what is wrong with the C++ compiler that would build mmcv, if anything."""
    how = _how("compiler", "install it")
    for variable, default in (("CC", sysconfig.get_config_var("CC") or "cc"), ("CXX", "c++")):
        command = (os.environ.get(variable) or default).split()
        if shutil.which(command[0]) is None:
            return f"no C++ compiler: `{command[0]}` is not found, mmcv's build needs it; {how}"
    command += ["-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=_CPP_PROBE, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    error = next((s for s in done.stderr.splitlines() if "error" in s), "no message")
    return (
        f"the C++ compiler `{command[0]}` cannot compile C++17 ({error.strip()}), mmcv's build "
        f"needs GCC 9 or newer; {how}"
    )


def headers_problem() -> str | None:
    """Say that Python's C headers are missing, if they are."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if header.is_file():
        return None
    how = _how("headers", "this system has no package of them; install the whole of this Python")
    return f"Python's C headers are missing ({header}), mmcv's build needs them: {how}"


def has_gpu() -> bool:
    """Tell whether there is an NVIDIA GPU that torch would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return False
    if shutil.which("nvidia-smi") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return done.returncode == 0 and "GPU" in done.stdout


def find_nvcc() -> str | None:
    """Return the CUDA compiler as torch would find it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
        return str(nvcc) if nvcc.is_file() else None
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def cuda_release(nvcc: str) -> str | None:
    """Return the CUDA version of a compiler, such as ``13.0``, or None if it does not tell."""
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found[1] if found else None


def fits(nvcc: str | None, torch_cuda: str) -> bool:
    """Tell whether there is a compiler, of torch's major CUDA version."""
    release = cuda_release(nvcc) if nvcc else None
    return release is not None and release.split(".")[0] == torch_cuda.split(".")[0]


def cuda_problem(torch_cuda: str | None) -> str | None:
    """Say what is missing to build mmcv's CUDA ops on a machine with a GPU.

    Args:
        torch_cuda: The CUDA version that the installed torch is built for, or None if torch is
            not installed yet: then only what the shell says is checked.
    """
    wanted = f"CUDA toolkit {torch_cuda}" if torch_cuda else "CUDA toolkit"
    how = (
        f"install NVIDIA's {wanted} (Debian/Ubuntu and Fedora: package cuda-toolkit of NVIDIA's "
        "repository; conda: conda install -c nvidia cuda-toolkit) and set CUDA_HOME, or set up "
        "without the GPU: CUDA_VISIBLE_DEVICES=-1"
    )
    nvcc, home = find_nvcc(), os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home and nvcc is None:
        return f"CUDA_HOME is {home}, which has no bin/nvcc to build mmcv's CUDA ops: {how}"
    if torch_cuda is None or fits(nvcc, torch_cuda):
        return None
    if not home and int(torch_cuda.split(".")[0]) >= OLDEST_PACKAGED:
        return None  # cuda_toolkit fetches one
    found = f"nvcc is of CUDA {cuda_release(nvcc)}" if nvcc else "there is no nvcc"
    return f"{found}, torch of CUDA {torch_cuda}, mmcv cannot build its CUDA ops: {how}"


def disk_warning(venv: Path) -> str | None:
    """Say that the disk may be too small, which depends on the torch that pip will find."""
    if disk_problem(venv, NEEDED_CUDA_GIB, "the environment") is None:
        return None
    return (
        f"less than {NEEDED_CUDA_GIB} GB are free, enough for torch's CPU build only; if pip here "
        "finds the CUDA build (its default index does), point it at PyTorch's index of CPU "
        "builds with PIP_EXTRA_INDEX_URL"
    )


def machine_problems(venv: Path, gpu: bool) -> list[str]:
    """Return one line for everything that every set-up needs and this machine lacks."""
    needed = NEEDED_CUDA_GIB if gpu else NEEDED_GIB
    problems = [
        venv_problem(),
        disk_problem(venv, needed, "the environment"),
        disk_problem(Path(tempfile.gettempdir()), NEEDED_TMP_GIB, "pip's temporary folder"),
        library_problem(),
    ]
    return [p for p in problems if p]


def build_problems(gpu: bool, torch_cuda: str | None = None) -> list[str]:
    """Return one line for everything that building mmcv needs and this machine lacks."""
    problems = [compiler_problem(), headers_problem(), cuda_problem(torch_cuda) if gpu else None]
    return [p for p in problems if p]
