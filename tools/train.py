"""Train a detector or a segmentor; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.training.train import main

if __name__ == "__main__":
    sys.exit(main())
