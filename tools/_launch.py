"""Run a tool in several processes; what _launch.sh calls."""

import sys

import _checkout  # noqa: F401

from pvt_mm.training.launch import main

if __name__ == "__main__":
    sys.exit(main())
