"""Train, test and draw a small detector on synthetic images, in a few minutes on a CPU."""

import sys

import _checkout  # noqa: F401

from pvt_mm.demo.tool import main

if __name__ == "__main__":
    sys.exit(main())
