"""Write a trained model, or its backbone, as ONNX or pt2; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.export.cli import main

if __name__ == "__main__":
    sys.exit(main())
