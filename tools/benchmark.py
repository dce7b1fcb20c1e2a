"""Measure speed and memory beside other implementations; `--help` lists the options."""

import sys

import _environment  # noqa: F401  # not _checkout: the allocator's worth is measured, too

from pvt_mm.costs.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
