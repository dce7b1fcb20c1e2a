"""``python -m pvt_mm.costs.benchmark``: what ``tools/benchmark.py`` runs."""

import sys

from pvt_mm.costs.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
