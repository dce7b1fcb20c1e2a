"""Write the synthetic demo data set; at once done if it is there already."""

import sys

import _checkout  # noqa: F401

from pvt_mm.data.demo.make_data import main

if __name__ == "__main__":
    sys.exit(main())
