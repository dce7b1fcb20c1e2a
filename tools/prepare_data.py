"""Write labelled images of any known format as one data set; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.data.prepare.tool import main

if __name__ == "__main__":
    sys.exit(main())
