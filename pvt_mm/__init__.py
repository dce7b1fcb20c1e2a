"""Pyramid Vision Transformers, v1 and v2, for the mm stack.

Importing the package checks the installed stack, gives mmengine and mmcv what Python 3.14 took from
them, and makes mmengine load checkpoints safely. It stays cheap: what needs ``torch.nn`` and
mmengine's model code is imported at its first use.
"""

from pvt_mm.checkpoints.loaders import register_loaders
from pvt_mm.lazy import lazily
from pvt_mm.stack import check_stack, restore_find_loader
from pvt_mm.version import __version__

__all__ = [
    "PVT",
    "PVTClassifier",
    "PVTv2",
    "Predictor",
    "__version__",
    "accelerate",
    "restore",
    "tune_allocator",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "PVT": ".backbones",
        "PVTClassifier": ".classification",
        "PVTv2": ".backbones",
        "Predictor": ".inference",
        "accelerate": ".kernels",
        "restore": ".kernels",
        "tune_allocator": ".allocator",
    },
)

check_stack()
restore_find_loader()
register_loaders()
