"""Write one HTML page about a run; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.reporting.report import main

if __name__ == "__main__":
    sys.exit(main())
