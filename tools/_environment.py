"""Paths, threads and warnings of every tool; importing this module sets them up."""

import os
import sys
import warnings
from pathlib import Path

# A checkout works without being installed, from any folder; the tools of an installed package,
# which stand in pvt_mm/.mim, find that package by themselves.
_root = Path(__file__).resolve().parents[1]
if (_root / "pvt_mm" / "__init__.py").is_file():
    sys.path.insert(0, str(_root))
# Read when torch is loaded. Where other programs use the cores too, OpenMP's waiting threads burn
# the very time that they wait for, and all become many times slower; where none does, threads that
# fall asleep at once cost a quarter of the speed. So they wait for some microseconds, and sleep.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # GNU's OpenMP, which PyTorch's wheels have
# mmengine imports it, and its warning, once per module, would bury what we have to say.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
