"""The page that shows the model zoo to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pvt_mm.archs import ARCHS
from pvt_mm.config.families import FAMILIES
from pvt_mm.config.recipes import RECIPES, Recipe
from pvt_mm.costs.measured import measured
from pvt_mm.zoo.index import GPUS, NO_RESULTS, backbone_title

__all__ = ["models_table", "zoo_page"]

INTRO = """\
<!-- Written by tools/make_model_index.py; change pvt_mm/config/recipes.py and run that. -->
# Model zoo

Results are as published, none of them is ours: by the authors of
[PVT](https://arxiv.org/abs/2102.12122) and [PVT v2](https://arxiv.org/abs/2106.13797), or by
MMDetection for its own implementation. Where it says "none published", nobody published a result of
that backbone with that recipe. Parameters and operations are measured with `tools/get_flops.py`, on
this package's models.

GFLOPs are 10^9 multiply-adds of one image: convolutions, linear layers and
matrix products, both products of attention among them; norms, pooling and bilinear resizing, as
mmengine counts them, add less than one percent, and deformable attention's sampling, counted the
same way, up to two. Two-stage detectors are counted with 1000 proposals and 100 masks.

## Backbones

Without a classifier. "Kept" is what autograd holds of one image's float32 forward pass through the
plain modules for the backward pass, without `with_cp`; parameters, gradients and the optimizer's
state come on top of it. Of large maps the [fast twins](kernels.md) keep about half on CPUs, which
compute activations anew.
"""

# The families of recipes that every backbone has, and their columns in the README.
USUAL = {
    "retinanet": "RetinaNet, box AP",
    "mask_rcnn": "Mask R-CNN, box / mask AP",
    "semantic_fpn": "Semantic FPN, mIoU",
}


def zoo_page() -> str:
    """Make the page.

    Returns:
        Markdown.
    """
    parts = [INTRO, _backbones()]
    for name, family in FAMILIES.items():
        recipes = [recipe for recipe in RECIPES.values() if recipe.family == name]
        size = "x".join(map(str, family.shape))
        parts.append(f"\n## {family.title}\n\n{_intro(recipes)} GFLOPs at {size}.\n")
        parts.append(_recipes(recipes))
    return "\n".join(parts)


def models_table() -> str:
    """Make the README's table: each backbone with the published results of the usual recipes.

    Returns:
        Markdown; results are linked to their configs, from the root of a checkout.
    """
    head = ["backbone", "params (M)", "ImageNet top-1", *USUAL.values()]
    rows = []
    for name, arch in ARCHS.items():
        params = measured()["backbones"][name]["params"]
        row = [f"`{name}`", f"{params / 1e6:.1f}", f"{arch.top1}"]
        for family in USUAL:
            ours = (one for one in RECIPES.values() if (one.family, one.backbone) == (family, name))
            usual = next(ours)  # the longer schedules come after it
            row.append(f"[{' / '.join(map(str, usual.results))}](configs/{usual.config}.py)")
        rows.append(row)
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _backbones() -> str:
    table = measured()["backbones"]
    sizes = list(next(iter(table.values()))["sizes"])
    head = ["backbone", "weights", "ImageNet top-1", "params (M)"]
    head += [f"GFLOPs {size}" for size in sizes] + [f"kept {size} (MiB)" for size in sizes]
    rows = []
    for name, arch in ARCHS.items():
        costs = table[name]
        row = [backbone_title(name), f"[`pvt://{name}`]({arch.url})", f"{arch.top1}"]
        row.append(f"{costs['params'] / 1e6:.1f}")
        row += [f"{costs['sizes'][size]['flops'] / 1e9:.1f}" for size in sizes]
        row += [f"{costs['sizes'][size]['activation_bytes'] / 2**20:.0f}" for size in sizes]
        rows.append(row)
    return _table(head, rows)


def _intro(recipes: list[Recipe]) -> str:
    family = recipes[0].of
    lengths = sorted({recipe.epochs for recipe in recipes})
    length = (
        f"{family.iterations} iterations"
        if family.iterations
        else " or ".join(map(str, lengths)) + " epochs"
    )
    whose = f" The recipe is {family.toolbox}'s, PVT is in it only here." if family.toolbox else ""
    return f"{family.dataset}, {length}, AdamW, {family.resources}.{whose}"


def _recipes(recipes: list[Recipe]) -> str:
    metrics = [metric for _, metric in recipes[0].of.results]
    by_mmdet = any(recipe.mmdet is not None for recipe in recipes)
    head = ["config", "params (M)", "GFLOPs", "batch", "lr", "weight decay", *metrics]
    if by_mmdet:
        head += [f"{metrics[0]} of MMDetection", "memory of MMDetection (GB, V100)"]
    rows = []
    for recipe in recipes:
        costs = measured()["recipes"][recipe.config]
        row = [f"[`{recipe.config}`](../configs/{recipe.config}.py)"]
        row += [f"{costs['params'] / 1e6:.1f}", f"{costs['flops'] / 1e9:.1f}"]
        row += [f"{GPUS * recipe.images}", f"{recipe.lr:.3g}", f"{recipe.weight_decay:g}"]
        row += [str(value) for value in recipe.results] or [NO_RESULTS] * len(metrics)
        if by_mmdet:
            own = "" if recipe.mmdet is None else f"[{recipe.mmdet}]({recipe.trained_weights})"
            row += [own, "" if recipe.mmdet_memory is None else str(recipe.mmdet_memory)]
        rows.append(row)
    return _table(head, rows)
