"""Print the top classes of images; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.classification.tool import main

if __name__ == "__main__":
    sys.exit(main())
