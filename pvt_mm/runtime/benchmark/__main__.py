"""``python -m pvt_mm.runtime.benchmark``: what ``tools/benchmark.py`` runs."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
