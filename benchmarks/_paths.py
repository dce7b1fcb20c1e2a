"""Lets the benchmarks run from a checkout, from any folder; importing this module does it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"

sys.path.insert(0, str(ROOT / "tools"))
import _environment  # noqa: E402, F401
