"""Draw curves of trainings; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.visualization.curves import main

if __name__ == "__main__":
    sys.exit(main())
