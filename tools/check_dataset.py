"""Check the data sets of a config, every file and annotation; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.data.check_dataset import main

if __name__ == "__main__":
    sys.exit(main())
