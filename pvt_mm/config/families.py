"""The families of recipes: one metafile each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "PAPERS", "Family"]


@dataclass(frozen=True)
class Family:
    """What the recipes of one model have in common.

    Args:
        title: Name of the model, and of its collection in the index.
        results: The task and the metric of each published result.
        dataset: Data set of training and test.
        shape: Height and width of the image that operations are counted for, in pixels.
        resources: What the recipe is made for.
        iterations: Length of training where it is not counted in epochs.
        techniques: Training techniques besides those that every recipe has.
        toolbox: The framework whose recipe it is, where it is not one of the papers'.
    """

    title: str
    results: tuple[tuple[str, str], ...]
    dataset: str = "COCO"
    shape: tuple[int, int] = (800, 1280)
    resources: str = "8 GPUs"
    iterations: int = 0
    techniques: tuple[str, ...] = ()
    toolbox: str = ""


_BOX = ("Object Detection", "box AP")
_MASK = ("Instance Segmentation", "mask AP")
_MULTI_SCALE = ("Multi-scale Training",)
_CLIPPED = (*_MULTI_SCALE, "Gradient Clipping")


def _ade20k(
    title: str, iterations: int, techniques: tuple[str, ...] = (), toolbox: str = ""
) -> Family:
    return Family(
        title,
        (("Semantic Segmentation", "mIoU"),),
        dataset="ADE20K",
        shape=(512, 512),
        iterations=iterations,
        techniques=techniques,
        toolbox=toolbox,
    )


FAMILIES = {
    "retinanet": Family("RetinaNet", (_BOX,)),
    "mask_rcnn": Family("Mask R-CNN", (_BOX, _MASK)),
    "cascade_mask_rcnn": Family("Cascade Mask R-CNN", (_BOX, _MASK), techniques=_MULTI_SCALE),
    "atss": Family("ATSS", (_BOX,), techniques=_MULTI_SCALE),
    "gfl": Family("GFL", (_BOX,), techniques=_MULTI_SCALE),
    "sparse_rcnn": Family("Sparse R-CNN", (_BOX,), techniques=_CLIPPED),
    "detr": Family("DETR", (_BOX,), techniques=_CLIPPED),
    "deformable_detr": Family(
        "Deformable DETR", (_BOX,), techniques=_CLIPPED, toolbox="MMDetection"
    ),
    "dino": Family("DINO", (_BOX,), techniques=_CLIPPED, toolbox="MMDetection"),
    "mask2former": Family(
        "Mask2Former",
        (_BOX, _MASK),
        iterations=368750,
        techniques=("Large Scale Jittering", "Gradient Clipping"),
        toolbox="MMDetection",
    ),
    "semantic_fpn": _ade20k("Semantic FPN", 40000),
    "upernet": _ade20k("UPerNet", 160000, toolbox="MMSegmentation"),
    "segformer": _ade20k("SegFormer", 160000, toolbox="MMSegmentation"),
    "mask2former_semantic": _ade20k(
        "Mask2Former, semantic", 160000, _CLIPPED, toolbox="MMSegmentation"
    ),
    "classification": Family(
        "Classification",
        (("Image Classification", "top-1 accuracy"),),
        dataset="ImageNet-1k",
        shape=(224, 224),
        techniques=("DeiT Augmentation",),
    ),
}

# By the version of PVT: short name, title, address.
PAPERS = {
    1: (
        "PVT",
        "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without "
        "Convolutions",
        "https://arxiv.org/abs/2102.12122",
    ),
    2: (
        "PVT v2",
        "PVT v2: Improved Baselines with Pyramid Vision Transformer",
        "https://arxiv.org/abs/2106.13797",
    ),
}
