"""Runs of several processes that share one import of the stack, and what they train."""

import os
from pathlib import Path

import torch
from forked import fork_context, rank_variables, wait_for
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from pvt_mm.checkpoints import safe_load
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.training.test import run_test
from pvt_mm.training.train import run_train

NO_WORKERS = {
    f"{split}_dataloader.{key}": value
    for split in ("train", "test")
    for key, value in (("num_workers", 0), ("persistent_workers", False))
}


def _rank(environment, folder, action, arguments):
    os.environ.update(environment)
    os.chdir(folder)
    {"train": run_train, "test": run_test}[action](**arguments)


def run_ranks(world_size, folder, action, **arguments):
    """Train or test in ``folder`` in so many processes, as ``torchrun`` would start them."""
    context = fork_context()
    launcher = "none" if world_size == 1 else "pytorch"
    processes = []
    for environment in rank_variables(world_size):
        environment["DEMO_ROOT"] = str(folder / "data")
        given = (environment, folder, action, arguments | {"launcher": launcher})
        processes.append(context.Process(target=_rank, args=given))
        processes[-1].start()
    assert wait_for(processes) == [0] * world_size


CONFIGS = Path(__file__).parents[1] / "configs"
ITERATIONS = 3
BATCH = 4  # of all processes together
# No norm over the batch, nothing random; SGD, as Adam's first steps are as large for a gradient
# of rounding errors as for any other.
SEGMENTOR = f"""
_base_ = "{CONFIGS}/fpn_pvt_v2_b0_demo.py"
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    decode_head=dict(norm_cfg=dict(type="GN", num_groups=8), dropout_ratio=0),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="SGD", lr=0.1, momentum=0.9), clip_grad=dict(max_norm=0.5)
)
param_scheduler = []
train_cfg = dict(max_iters={ITERATIONS})
val_cfg = val_dataloader = val_evaluator = None
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1))
load_from = "start.pth"
"""


def segmentor_folder(folder):
    """Fill a folder with a data set, the segmentor's config and its start."""
    make_demo_data(folder / "data", DemoSpec(train=BATCH * ITERATIONS, val=1, size=64))
    (folder / "segmentor.py").write_text(SEGMENTOR)
    save_start(folder, folder / "segmentor.py", "mmseg")
    return folder


def save_start(folder, config, scope):
    """Save random parameters as ``start.pth``."""
    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    torch.save({"state_dict": model.state_dict()}, folder / "start.pth")


def parameters(checkpoint):
    """Read the parameters of a checkpoint."""
    state = safe_load(checkpoint)["state_dict"]
    return {name: value for name, value in state.items() if value.is_floating_point()}


def train(folder, processes, work_dir, config="segmentor.py", **arguments):
    """Train the segmentor and return its parameters."""
    options = NO_WORKERS | {"train_dataloader.batch_size": BATCH // processes}
    arguments |= {"config": config, "work_dir": work_dir, "cfg_options": options}
    run_ranks(processes, folder, "train", **arguments)
    return parameters(folder / work_dir / f"iter_{ITERATIONS}.pth")
