"""Measure speed and memory beside other implementations; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.costs.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
