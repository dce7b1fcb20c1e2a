"""The model index that mim and mmengine read, made of the tables."""

from __future__ import annotations

import yaml

from pvt_mm.archs import ARCHS
from pvt_mm.config.families import FAMILIES, PAPERS
from pvt_mm.config.recipes import BASELINES, RECIPES, Recipe
from pvt_mm.costs.measured import measured

__all__ = ["NO_RESULTS", "backbone_title", "index_files", "source"]

NO_RESULTS = "none published"

HEADER = "# Written by tools/make_model_index.py; change pvt_mm/config/recipes.py and run that.\n"
METAFILES = "configs/metafiles"
GPUS = 8


def index_files() -> dict[str, str]:
    """Make the index and its metafiles.

    Returns:
        Text by path, relative to the root of a checkout.
    """
    texts = {f"{METAFILES}/{name}.yml": _dump(_metafile(name)) for name in FAMILIES}
    return {"model-index.yml": _dump({"Import": list(texts)}), **texts}


def backbone_title(name: str) -> str:
    """Write a backbone's name as the papers do, such as ``PVTv2-B2-Li``."""
    if name in BASELINES:
        return BASELINES[name].title
    if ARCHS[name].version == 1:
        return f"PVT-{name.removeprefix('pvt_').title()}"
    return f"PVTv2-{name.removeprefix('pvt_v2_').title().replace('_', '-')}"


def source(recipe: Recipe) -> tuple[str, str, str]:
    """Find the paper of a recipe: short name, title, address."""
    # The baselines are compared with by the first paper, with its recipe.
    return PAPERS[ARCHS[recipe.backbone].version if recipe.backbone in ARCHS else 1]


def _dump(content: dict) -> str:
    return HEADER + yaml.safe_dump(content, sort_keys=False, width=100)


def _metafile(family: str) -> dict:
    recipes = [recipe for recipe in RECIPES.values() if recipe.family == family]
    # Names of collections are shared with other packages' indexes: ours says whose it is.
    collection = {
        "Name": f"PVT {FAMILIES[family].title}",
        "Paper": [address for _, _, address in PAPERS.values()],
        "README": "../../docs/model_zoo.md",
        "Metadata": {"Architecture": [FAMILIES[family].title, "Pyramid Vision Transformer"]},
    }
    return {"Collections": [collection], "Models": [_model(recipe) for recipe in recipes]}


def _model(recipe: Recipe) -> dict:
    family = recipe.of
    short, title, address = source(recipe)
    costs = measured()["recipes"][recipe.config]
    length = {"Iterations": family.iterations} if family.iterations else {"Epochs": recipe.epochs}
    techniques = ["AdamW", "Weight Decay", *family.techniques]
    metadata = {
        "Architecture": [family.title, backbone_title(recipe.backbone)],
        "Backbone": recipe.backbone,
        "Parameters": costs["params"],
        "FLOPs": costs["flops"],
        "FLOPs Input": "x".join(map(str, family.shape)),
        "Training Data": family.dataset,
        "Training Resources": family.resources,
        "Training Techniques": techniques + ["Mixed Precision"] * recipe.amp,
        **length,
        "Batch Size": GPUS * recipe.images,
        "Optimizer": "AdamW",
        "Learning Rate": float(f"{recipe.lr:.6g}"),
        "Weight Decay": recipe.weight_decay,
    }
    if recipe.mmdet_memory is not None:  # of MMDetection's run, as its metafile says
        metadata["Training Resources"] = "8x NVIDIA V100 GPUs"
        metadata["Training Memory (GB)"] = recipe.mmdet_memory
    by = f"the authors of {short}; not reproduced here"
    metadata["Results By"] = by if recipe.results else NO_RESULTS
    if recipe.released:
        metadata["Weights Hold"] = "the classifier that the authors released"
    elif recipe.trained_weights:
        metadata["Weights Hold"] = "the detector that MMDetection trained"
    else:
        metadata["Weights Hold"] = "the ImageNet-1k backbone that training starts from"
    if recipe.initial_weights:
        metadata["Initial Weights"] = recipe.initial_weights
    model = {
        "Name": recipe.config,
        "In Collection": f"PVT {family.title}",
        "Config": f"configs/{recipe.config}.py",
        "Metadata": metadata,
    }
    if recipe.results:
        model["Results"] = _results(recipe)
    model["Weights"] = recipe.trained_weights or recipe.initial_weights
    model["Paper"] = {"Title": title, "URL": address}
    return model


def _results(recipe: Recipe) -> list[dict]:
    results = []
    for (task, metric), value in zip(recipe.of.results, recipe.results, strict=True):
        metrics = {metric: value}
        if recipe.mmdet is not None:
            metrics[f"{metric} of MMDetection"] = recipe.mmdet
        results.append({"Task": task, "Dataset": recipe.of.dataset, "Metrics": metrics})
    return results
