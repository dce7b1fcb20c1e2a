"""The toolboxes' recipes train on the demo's images: data, hooks, optimizer, test and all."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from recipes import MODERN, fresh

from pvt_mm.config.loading import walk
from pvt_mm.data.demo import CLASSES, DemoSpec, make_demo_data
from pvt_mm.data.demo.dataset import SEG_CLASSES
from pvt_mm.training.train import run_train

SIDE = 128  # of the images, in pixels
ITERATIONS = 3
LARGE = ("deformable_detr", "mask2former")  # in `make test-all`


@HOOKS.register_module()
class GradientsOfTheBackbone(Hook):
    """Collects the sum of the magnitudes of each parameter's gradients."""

    seen: dict = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter:
            return
        self.seen.clear()
        for name, parameter in runner.model.backbone.named_parameters():
            self.seen[name] = []
            add = self.seen[name].append
            parameter.register_hook(lambda grad, add=add: add(grad.abs().sum().item()))


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo_data(root, DemoSpec(train=2 * ITERATIONS, val=2, size=SIDE))
    return root


def set_images(cfg, root):
    """The demo's images in the place of COCO or ADE20K, at their own size."""
    segments = cfg.default_scope == "mmseg"
    splits = zip(("train_dataloader", "val_dataloader"), ("training", "validation"), strict=True)
    for key, split in splits:
        loader = cfg[key]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        dataset.data_root = str(root)
        if segments:
            dataset.type, dataset.img_suffix, dataset.reduce_zero_label = (
                "BaseSegDataset",
                ".png",
                True,
            )
            dataset.metainfo = dict(classes=SEG_CLASSES)
            prefix = dict(img_path=f"images/{split}", seg_map_path=f"annotations/{split}")
        else:
            dataset.ann_file = f"annotations/instances_{split}.json"
            dataset.metainfo = dict(classes=CLASSES)
            prefix = dict(img=f"images/{split}/")
        dataset.data_prefix = prefix
        for _, step in walk(dataset.pipeline):
            for size in step.keys() & {"scale", "crop_size"}:
                step[size] = (SIDE, SIDE)
            if "scales" in step:
                step.scales = [SIDE] if isinstance(step.scales[0], int) else [(SIDE, SIDE)]
    cfg.test_dataloader = cfg.val_dataloader
    if not segments:
        cfg.val_evaluator.ann_file = f"{root}/annotations/instances_validation.json"
        cfg.test_evaluator = cfg.val_evaluator


def set_model(cfg):
    """The demo's classes in every head, and no more queries than so small images have tokens."""
    count = len(SEG_CLASSES if cfg.default_scope == "mmseg" else CLASSES)
    cfg.model.backbone.init_cfg = None
    if "size" in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
    for augment in cfg.model.data_preprocessor.get("batch_augments") or ():
        augment.size = (SIDE, SIDE)
    if cfg.model.get("as_two_stage"):
        cfg.model.num_queries = 100
    for _, part in walk(cfg.model):
        for key in part.keys() & {"num_classes", "num_things_classes"}:
            part[key] = count
        if part.get("class_weight"):
            part.class_weight = [1.0] * count + [0.1]
        if part.get("type") == "SyncBN":
            part.type = "BN"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive) if name.startswith(LARGE) else name
        for name in MODERN[::2]
    ],
)
def test_recipe_trains_on_the_demo_data(name, demo_data, tmp_path):
    torch.manual_seed(0)
    cfg = fresh(name)
    set_images(cfg, demo_data)
    set_model(cfg)
    if cfg.train_cfg.get("max_iters"):
        cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=ITERATIONS)
        cfg.train_cfg.pop("dynamic_intervals", None)
        cfg.default_hooks.checkpoint.interval = ITERATIONS
    else:
        cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks.append(dict(type="GradientsOfTheBackbone"))
    cfg.dump(tmp_path / "config.py")
    runner = run_train(tmp_path / "config.py", work_dir=tmp_path / "work")

    losses, _ = runner.message_hub.get_scalar("train/loss").data
    assert len(losses) == ITERATIONS
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    gradients = GradientsOfTheBackbone.seen
    assert all(len(sums) == ITERATIONS for sums in gradients.values())
    assert all(math.isfinite(sum(sums)) and sum(sums) > 0 for sums in gradients.values())
    metric = "mIoU" if cfg.default_scope == "mmseg" else "coco/bbox_mAP"
    assert f"val/{metric}" in runner.message_hub.log_scalars
    saved = "epoch_1.pth" if cfg.train_cfg.get("max_epochs") else f"iter_{ITERATIONS}.pth"
    assert (tmp_path / "work" / saved).is_file()
