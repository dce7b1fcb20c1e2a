"""Count parameters and operations of configs and backbones; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.costs.flops import main

if __name__ == "__main__":
    sys.exit(main())
