"""Draw what a config's pipeline feeds the model; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.visualization.browse import main

if __name__ == "__main__":
    sys.exit(main())
