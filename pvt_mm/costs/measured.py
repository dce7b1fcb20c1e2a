"""Parameters and operations of the whole zoo, counted once and committed."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

__all__ = ["measured"]


@functools.cache
def measured() -> dict[str, Any]:
    """Parameters and operations of all backbones and recipes, as committed.

    Returns:
        ``backbones`` as of :func:`pvt_mm.costs.flops.arch_table`, and ``recipes``: by config
        ``params`` and ``flops`` of one image of the family's shape.
    """
    return json.loads(files(__package__).joinpath("complexity.json").read_text())
