"""Find objects or label pixels in images and videos; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.inference.tool import main

if __name__ == "__main__":
    sys.exit(main())
