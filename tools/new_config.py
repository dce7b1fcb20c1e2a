"""Write a config for a data set that prepare_data.py wrote; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.data.new_config import main

if __name__ == "__main__":
    sys.exit(main())
