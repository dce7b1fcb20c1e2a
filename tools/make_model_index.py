"""Write model-index.yml, its metafiles and docs/model_zoo.md; `--help` lists the options."""

import sys

import _checkout  # noqa: F401

from pvt_mm.runtime.model_index import main

if __name__ == "__main__":
    sys.exit(main())
