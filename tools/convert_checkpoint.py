"""Convert a checkpoint between pvt_mm, timm, transformers and mmdet; --help lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.conversion.tool import main

if __name__ == "__main__":
    sys.exit(main())
