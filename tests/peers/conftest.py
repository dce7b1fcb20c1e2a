"""Not for the main environment: `make test` runs these files through tests/test_peers.py."""

import importlib.util
import sys
from pathlib import Path

# For helpers beside the other tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if any(importlib.util.find_spec(name) is None for name in ("timm", "transformers")):
    collect_ignore_glob = ["test_*.py"]
