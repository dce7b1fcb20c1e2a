"""Pyramid Vision Transformers, v1 and v2, for the mm stack.

Importing the package checks the installed stack and makes mmengine load checkpoints safely. It
stays cheap: what needs ``torch.nn`` and mmengine's model code is imported at its first use.
"""

from importlib import import_module

from .loaders import register_loaders
from .stack import check_stack
from .version import __version__

_LAZY = {
    "PVT": ".backbones",
    "PVTClassifier": ".classification",
    "PVTv2": ".backbones",
    "Predictor": ".inference",
}

__all__ = ["PVT", "PVTClassifier", "PVTv2", "Predictor", "__version__"]


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


check_stack()
register_loaders()
