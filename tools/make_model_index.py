"""Write the model index, its page and the README's table; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.zoo.tool import main

if __name__ == "__main__":
    sys.exit(main())
