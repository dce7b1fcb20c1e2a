"""Names of a package that are imported at their first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, places: Mapping[str, str]) -> tuple[Callable, Callable]:
    """Make ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: The package's ``__name__``.
        places: By name, the module that has it, relative to the package: ``".backbones"``.
    """
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = getattr(import_module(places[name], package), name)
        return namespace[name]

    return get, lambda: sorted({*namespace, *places})
