"""Make mmengine load every checkpoint through this package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["register_loaders"]

_MODULE = "mmengine.runner.checkpoint"


def register_loaders() -> None:
    """Put the safe loaders in the place of mmengine's, and add ``pvt://``.

    mmengine's own unpickle what they are given: they cannot read today what mmengine saved, or,
    with an older torch, execute whatever the file says. Importing mmengine's runner, where they
    live, takes longer than all else here together; if nobody has done it yet, the registration
    waits until somebody does.
    """
    if _MODULE in sys.modules:
        _register(sys.modules[_MODULE])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _register(module: ModuleType) -> None:
    from pvt_mm.checkpoints.schemes import LOADERS

    for prefix, loader in LOADERS.items():
        module.CheckpointLoader.register_scheme(prefix, loader, force=True)


class _AfterImport(MetaPathFinder):
    """Finds that one module as Python would, and registers the loaders once it has run."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register(module)
            sys.meta_path.remove(self)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]  # of this one
        return spec
