"""Child registries of pvt_mm, scope ``pvt_mm``.

mmengine imports this module by itself when it meets a type such as ``'pvt_mm.PVTv2'``, so the
string alone is enough in a config of any OpenMMLab project. Each registry imports its
``locations`` on first use only.
"""

from importlib.util import find_spec

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "HOOKS",
    "LOOPS",
    "METRICS",
    "MODELS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "TRANSFORMS",
]

_CLS = "pvt_mm.classification"
# A classifier or a segmenter needs no mmdet.
_DET = ["pvt_mm.data.by_name"] if find_spec("mmdet") else []

MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope="pvt_mm",
    locations=["pvt_mm.backbones", _CLS, "pvt_mm.runtimes.model", "pvt_mm.training.losses"],
)
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="pvt_mm", locations=[_CLS, *_DET])
DATA_SAMPLERS = Registry(
    "data sampler", parent=MMENGINE_DATA_SAMPLERS, scope="pvt_mm", locations=[_CLS]
)
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="pvt_mm", locations=[_CLS])
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="pvt_mm", locations=[_CLS, *_DET])
HOOKS = Registry(
    "hook",
    parent=MMENGINE_HOOKS,
    scope="pvt_mm",
    locations=[
        "pvt_mm.training.accelerating",
        "pvt_mm.training.amp",
        "pvt_mm.training.bad_samples",
        "pvt_mm.training.divergence",
        "pvt_mm.training.evidence",
        "pvt_mm.training.matching",
        "pvt_mm.training.resuming.checkpointing",
        "pvt_mm.training.resuming.interruption",
        "pvt_mm.training.schedule",
    ],
)
LOOPS = Registry(
    "loop", parent=MMENGINE_LOOPS, scope="pvt_mm", locations=["pvt_mm.training.resuming.loops"]
)
OPTIM_WRAPPERS = Registry(
    "optimizer wrapper",
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope="pvt_mm",
    locations=["pvt_mm.training.amp"],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_CONSTRUCTORS,
    scope="pvt_mm",
    locations=["pvt_mm.training.layer_decay"],
)
