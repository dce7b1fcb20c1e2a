"""Imported once by the server of forked.py, for all processes that start as copies of it."""

import gc
from importlib import import_module

from mmengine.config import Config
from quick import quicken_configs
from recipes import CONFIGS

for name in (
    *("mmdet.models", "mmseg.models", "mmseg.datasets", "mmdet.datasets"),
    *("pvt_mm.training.train", "pvt_mm.training.test", "ranks"),
    "torch._dynamo",  # which optimizers import when the first is built
):
    import_module(name)

quicken_configs()
for name in ("retinanet_pvt_v2_b0_fpn_demo", "fpn_pvt_v2_b0_demo"):  # to read the metafiles
    Config.fromfile(CONFIGS / f"{name}.py")
gc.freeze()
