"""The project's own registries; mmengine imports this file when it meets ``'cells.Name'``."""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

__all__ = ["DATASETS", "MODELS"]

DATASETS = Registry(
    "dataset", parent=MMENGINE_DATASETS, scope="cells", locations=["cells.datasets"]
)
MODELS = Registry("model", parent=MMENGINE_MODELS, scope="cells", locations=["cells.models"])
