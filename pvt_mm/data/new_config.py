"""A config for a prepared data set: its classes, sizes and length, for the machine at hand."""

from __future__ import annotations

import json
import os
import pprint
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path

import torch

from pvt_mm.cli import CommandLine
from pvt_mm.config.families import FAMILIES as RECIPES_OF
from pvt_mm.config.loading import CHECKOUT_CONFIGS, load_config
from pvt_mm.config.recipes import BASELINES, RECIPES, Recipe
from pvt_mm.data.heads import count_classes
from pvt_mm.data.padding import picks_queries, token_count
from pvt_mm.data.prepare import MARKER, Prepared
from pvt_mm.errors import UserError, run_tool

__all__ = ["main", "new_config"]

FAMILIES = sorted(RECIPES_OF.keys() - {"classification"})
# Sides of images: those of the recipes at most.
LIMITS = {True: (2048, 512), False: (1333, 800)}
OBJECT_SIDE = 64  # pixels that the median object should be wide, if enlarging can do it
ENLARGED = 4  # times at most
SEGMENT_SIDE = 256  # pixels that the shorter side should have
# Of a training, and the bounds of its epochs.
ITERATIONS = {"cuda": 6000, "cpu": 1500}
EPOCHS = 12, 300
# GPU memory per image in GiB, where MMDetection published none of the backbone.
MEMORY = 20


def new_config(data: str | os.PathLike, model: str, arch: str, out: str | os.PathLike) -> str:
    """Write a config that trains a recipe's model on a prepared data set.

    Args:
        data: The folder that ``prepare_data`` wrote.
        model: Name of a family of recipes.
        arch: Architecture, as in ``b0``, ``b2_li`` or ``small``.
        out: The file to write.

    Returns:
        What the training will be, in a line.

    Raises:
        UserError: If the data does not fit the model, or there is no such recipe.
    """
    data, out = Path(data), Path(out)
    try:
        prepared = Prepared(**json.loads((data / MARKER).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{data} is no prepared data set; first run python tools/prepare_data.py SOURCE"
        ) from error
    recipe = _recipe(model, arch)
    _check_task(prepared, model)
    plan = Plan(prepared, recipe, prepared.splits["train"]["images"])
    lines = [*plan.head(data, out), *(plan.maps() if plan.segments else plan.objects())]
    out.write_text("\n".join(lines) + "\n")
    return (
        f"wrote {out}: {plan.batch} images a step, {plan.epochs} epochs of {plan.steps} iterations,"
        f" images scaled into {plan.scale[0]} x {plan.scale[1]}"
    )


def _recipe(model: str, arch: str) -> Recipe:
    names = (f"pvt_v2_{arch}", f"pvt_{arch}", arch)
    fitting = [recipe for recipe in RECIPES.values() if recipe.family == model]
    for recipe in fitting:
        if recipe.backbone in names:
            return recipe
    there = dict.fromkeys(recipe.backbone for recipe in fitting if recipe.backbone not in BASELINES)
    short = [name.removeprefix("pvt_").removeprefix("v2_") for name in there]
    raise UserError(f"--arch {arch}: {model} has recipes for {', '.join(short)}")


def _check_task(prepared: Prepared, model: str) -> None:
    fitting = [name for name in FAMILIES if prepared.task in _tasks(name)]
    if model not in fitting:
        raise UserError(
            f"--model {model}: {prepared.folder} holds {prepared.task}, from which "
            f"{', '.join(fitting)} learn"
        )


def _tasks(family: str) -> tuple[str, ...]:
    """Name the labels that a family learns from."""
    of = RECIPES_OF[family]
    if of.dataset == "ADE20K":
        return ("label maps",)
    return ("masks",) if len(of.results) > 1 else ("boxes", "masks")


@dataclass
class Plan:
    """What a training will be.

    Args:
        prepared: The data.
        recipe: The recipe that the config inherits.
        images: Number of images to train on.
    """

    prepared: Prepared
    recipe: Recipe
    images: int

    def __post_init__(self) -> None:
        self.segments = self.prepared.task == "label maps"
        self.masks = _tasks(self.recipe.family) == ("masks",)
        self.scale = self._scale()
        self.batch = self._batch()
        self.steps = ceil(self.images / self.batch)
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        least, most = EPOCHS
        self.epochs = min(max(ceil(ITERATIONS[kind] / self.steps), least), most)
        self.interval = max(1, self.epochs // 10)

    def _scale(self) -> tuple[int, int]:
        width, height = self.prepared.size
        longer, shorter = max(width, height), min(width, height)
        wanted = SEGMENT_SIDE / shorter if self.segments else 1
        if self.prepared.side:
            wanted = OBJECT_SIDE / self.prepared.side
        limit = LIMITS[self.segments]
        factor = min(max(1, min(wanted, ENLARGED)), limit[0] / longer, limit[1] / shorter)
        return tuple(max(64, 32 * round(factor * side / 32)) for side in (width, height))

    def _batch(self) -> int:
        """As many images as fit the machine, and a small data set has some steps in an epoch."""
        most = 4 if self.segments else 2
        if torch.cuda.is_available():
            like = RECIPES.get(self._retinanet(), self.recipe)
            memory = (like.mmdet_memory or MEMORY) / like.images
            memory *= self.scale[0] * self.scale[1] / (1333 * 800) * (2 if self.masks else 1)
            free = torch.cuda.mem_get_info()[0] / 2**30
            most = max(1, min(16, int(0.7 * free / memory)))
        return min(most, max(2, self.images // 4), self.images)

    def _retinanet(self) -> str:
        same = (r for r in RECIPES.values() if r.backbone == self.recipe.backbone)
        return next((r.config for r in same if r.mmdet_memory), "")

    def head(self, data: Path, out: Path) -> list[str]:
        """Write what every config has."""
        base = _base(self.recipe, out)
        splits, classes = self.prepared.splits, tuple(self.prepared.classes)
        images = ", ".join(f"{each['images']} in {split}" for split, each in splits.items())
        # The optimizer is Adam's: its rate follows the root of the batch.
        rate = self.recipe.lr * sqrt(self.batch / (self.recipe.images * 8))
        recipe = load_config(CHECKOUT_CONFIGS / f"{self.recipe.config}.py")
        wrapper = "dict(optimizer=dict(lr=learning_rate))"
        if not recipe.optim_wrapper.get("clip_grad"):
            # mmengine replaces a None of the base only so.
            delete = "_delete_=True, " if "clip_grad" in recipe.optim_wrapper else ""
            wrapper = f"{wrapper[:-1]}, clip_grad=dict({delete}max_norm=1.0))"
        return [
            f"# {self.recipe.of.title}, {self.recipe.backbone}, for {self.prepared.source}"
            f" ({images}).",
            "# Written by tools/new_config.py, to be changed as you like.",
            f"_base_ = {base!r}",
            f"data_root = {data.as_posix() + '/'!r}",
            f"classes = {pprint.pformat(classes, width=88, compact=True)}",
            f"image_size = {self.scale}  # an image is scaled to fit into it",
            f"images_per_step = {self.batch}",
            f"learning_rate = {rate:.2g}  # for images_per_step",
            f"epochs = {self.epochs}  # of {self.steps} iterations",
            f"warm_up = min(500, epochs * {self.steps} // 10)  # iterations",
            f"interval = {self.interval}  # epochs from one validation to the next",
            f"workers = dict(num_workers={_workers()}, persistent_workers=True)",
            "# " + "-" * 93,
            *self._model(recipe.model),
            f"optim_wrapper = {wrapper}",
            'load = dict(type="LoadImageFromFile")',
            'resize = dict(type="Resize", scale=image_size, keep_ratio=True)',
        ]

    def _model(self, model: Mapping) -> list[str]:
        """Write the number of classes wherever the model has one, and what small images need."""
        changes = count_classes(model)
        if model["data_preprocessor"].get("batch_augments"):
            changes["data_preprocessor"] = {"batch_augments": "None"}  # a size of COCO's images
        if picks_queries(model):
            tokens = token_count(model, self.scale)
            if tokens < 1.5 * model["num_queries"]:  # not all images fill the scale
                changes["num_queries"] = str(min(300, tokens // 2))
        return ["model = dict(", *(f"    {key}={_as_dict(changes[key])}," for key in changes), ")"]

    def objects(self) -> list[str]:
        """Write the data and schedule of a detector."""
        ids = tuple(self.prepared.category_ids)
        metrics = ["bbox", "segm"] if self.masks else ["bbox"]
        # One without objects, as COCO's own, cannot be scored.
        test = "test" if self.prepared.splits.get("test", {}).get("objects") else "val"
        pictures = max(1, self.prepared.splits["val"]["images"] // 8)
        return [
            f'labels = dict(type="LoadAnnotations", with_bbox=True, with_mask={self.masks})',
            "train_pipeline = [",
            '    load, labels, resize, dict(type="RandomFlip", prob=0.5),',
            '    dict(type="PackDetInputs"),',
            "]",
            'keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")',
            'test_pipeline = [load, resize, labels, dict(type="PackDetInputs", meta_keys=keys)]',
            "dataset = dict(",
            '    _delete_=True, type="pvt_mm.CocoDataset", data_root=data_root,',
            '    data_prefix=dict(img="images/"),',
            f"    metainfo=dict(classes=classes, category_ids={ids}),",
            ")",
            "train_dataloader = dict(",
            "    batch_size=images_per_step, **workers,",
            "    dataset=dict(",
            '        **dataset, ann_file="train.json", pipeline=train_pipeline,',
            "        filter_cfg=dict(filter_empty_gt=False),  # nothing to find is learnt, too",
            "    ),",
            ")",
            *(
                f"{split}_dataloader = dict(\n    **workers,\n    dataset=dict("
                f'**dataset, ann_file="{file}.json", pipeline=test_pipeline, test_mode=True),\n)\n'
                f'{split}_evaluator = dict(ann_file=data_root + "{file}.json", metric={metrics})'
                for split, file in (("val", "val"), ("test", test))
            ),
            'train_cfg = dict(_delete_=True, type="pvt_mm.ResumableEpochLoop", max_epochs=epochs, '
            "val_interval=interval)",
            "log_processor = dict(by_epoch=True)",
            "param_scheduler = [",
            *self._warm_up(),
            '    dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True),',
            "]",
            *_hooks(
                self.steps,
                f"coco/{metrics[-1]}_mAP",
                "by_epoch=True, interval=interval",
                pictures,
            ),
        ]

    def maps(self) -> list[str]:
        """Write the data and schedule of a segmentor."""
        test = "test" if "test" in self.prepared.splits else "val"
        pictures = max(1, self.prepared.splits["val"]["images"] // 8)
        every = f"interval * {self.steps}"
        return [
            f"crop_size = {tuple(min(512, side) for side in self.scale[::-1])}",
            "model.update(data_preprocessor=dict(size=crop_size))",
            'labels = dict(type="LoadAnnotations")',
            "train_pipeline = [",
            "    load, labels,",
            '    dict(type="RandomResize", scale=image_size, ratio_range=(0.75, 1.5), '
            "keep_ratio=True),",
            '    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.95),',
            '    dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion"),',
            '    dict(type="PackSegInputs"),',
            "]",
            "test_pipeline = [",
            '    load, resize, dict(type="ResizeToMultiple", size_divisor=32), labels,',
            '    dict(type="PackSegInputs"),',
            "]",
            "# The label maps count classes from 0: no reduce_zero_label. Names are whole.",
            "dataset = dict(",
            '    _delete_=True, type="BaseSegDataset", data_root=data_root,',
            '    data_prefix=dict(img_path="images/", seg_map_path="labels/"), img_suffix="",',
            "    metainfo=dict(classes=classes),",
            ")",
            "train_dataloader = dict(",
            "    batch_size=images_per_step, **workers,",
            '    dataset=dict(**dataset, ann_file="train.txt", pipeline=train_pipeline),',
            ")",
            *(
                f"{split}_dataloader = dict(**workers, "
                f'dataset=dict(**dataset, ann_file="{file}.txt", pipeline=test_pipeline))'
                for split, file in (("val", "val"), ("test", test))
            ),
            f"train_cfg = dict(max_iters=epochs * {self.steps}, val_interval={every})",
            "param_scheduler = [",
            *self._warm_up(),
            '    dict(type="CosineAnnealingLR", by_epoch=False),',
            "]",
            *_hooks(self.steps, "mIoU", f"interval={every}", pictures),
        ]

    def _warm_up(self) -> list[str]:
        if self.steps * self.epochs < 10:
            return []
        return [
            '    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=warm_up),'
        ]


def _base(recipe: Recipe, out: Path) -> str:
    """Name the recipe: by path in a checkout, by package where that is installed."""
    path = CHECKOUT_CONFIGS / f"{recipe.config}.py"
    if CHECKOUT_CONFIGS.parent.name == ".mim":
        return f"pvt_mm::{path.name}"
    near = os.path.relpath(path, out.resolve().parent)
    return near if near.count("..") < 4 else str(path)


def _as_dict(tree: dict | str) -> str:
    return tree if isinstance(tree, str) else f"dict({_arguments(tree)})"


def _arguments(tree: Mapping) -> str:
    return ", ".join(f"{key}={_as_dict(value)}" for key, value in tree.items())


def _hooks(steps: int, best: str, interval: str, pictures: int) -> list[str]:
    return [
        "default_hooks = dict(",
        f"    logger=dict(interval={min(50, steps)}),",
        f'    checkpoint=dict({interval}, max_keep_ckpts=1, save_best="{best}"),',
        f"    visualization=dict(draw=True, interval={pictures}),  # of the validation's images",
        ")",
    ]


def _workers() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/new_config.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "new_config.py", "Write a config that trains on a data set which prepare_data.py wrote."
    )
    parser.add_argument("data", metavar="DATA", help="folder that prepare_data.py wrote")
    parser.add_argument("--model", choices=FAMILIES, required=True)
    parser.add_argument("--arch", default="b0", help="of PVT v2 or v1, such as b2_li or small")
    parser.add_argument("--out", default="my_config.py", help="file to write")
    parser.add_flag("--overwrite", "replace the file")
    args = parser.parse_args(argv)

    def run() -> None:
        if Path(args.out).exists() and not args.overwrite:
            raise UserError(f"--out {args.out} is there; --overwrite replaces it")
        print(new_config(args.data, args.model, args.arch, args.out))
        print(f"next: python tools/train.py {args.out}")

    return run_tool(run)
