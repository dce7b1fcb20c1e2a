"""Estimate the memory of training on each GPU; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.costs.memory.cli import main

if __name__ == "__main__":
    sys.exit(main())
