"""Every recipe with what was published about it: the table that the model index is made of.

No number here is ours. ``ours`` runs will be another field when there are some.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pvt_mm.archs import ARCHS
from pvt_mm.config.families import FAMILIES, Family

__all__ = ["BASELINES", "RECIPES", "Baseline", "Recipe"]

# Where MMDetection keeps what it trained, as its own metafile says.
MMDET_URL = "https://download.openmmlab.com/mmdetection/v2.0/pvt/"


@dataclass(frozen=True)
class Baseline:
    """A backbone that PVT is compared with.

    Args:
        title: Its usual name.
        weights: Address of the ImageNet weights that its recipes start from, by family; ``''``
            is any other family.
    """

    title: str
    weights: dict[str, str]


_SWIN = "swin_tiny_patch4_window7_224"
BASELINES = {
    "r50": Baseline(
        "ResNet-50",
        {
            "": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "semantic_fpn": "https://download.openmmlab.com/pretrain/third_party/"
            "resnet50_v1c-2cccc1ad.pth",
        },
    ),
    "swin_t": Baseline(
        "Swin-T",
        {
            "": f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{_SWIN}.pth",
            "semantic_fpn": "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
            f"{_SWIN}_20220317-1cdeb081.pth",
        },
    ),
}


@dataclass(frozen=True)
class Recipe:
    """One config and its published results.

    Args:
        config: Name of the config file, without its suffix.
        family: Name of the family of recipes.
        backbone: Name of the release, or of a baseline.
        images: Images per GPU, on 8 GPUs.
        lr: Learning rate.
        weight_decay: Weight decay.
        epochs: Length of training, or 0 where the family counts it in iterations.
        amp: Whether it trains in mixed precision.
        results: Published by the authors of the paper, in the order of the family's metrics.
        mmdet: Box AP that MMDetection published for its own run.
        mmdet_memory: GPU memory of that run, in GB.
        mmdet_weights: Checkpoint of that run, relative to MMDetection's folder.
    """

    config: str
    family: str
    backbone: str
    images: int
    lr: float
    weight_decay: float
    epochs: int
    amp: bool = False
    results: tuple[float, ...] = ()
    mmdet: float | None = None
    mmdet_memory: float | None = None
    mmdet_weights: str = field(default="", repr=False)

    @property
    def of(self) -> Family:
        """The family."""
        return FAMILIES[self.family]

    @property
    def released(self) -> bool:
        """Whether the authors' release is the whole model, and training starts from nothing."""
        return self.family == "classification"

    @property
    def initial_weights(self) -> str:
        """Address of the ImageNet weights that training starts from, or an empty string."""
        if self.released:
            return ""
        if self.backbone in ARCHS:
            return ARCHS[self.backbone].url
        weights = BASELINES[self.backbone].weights
        return weights.get(self.family, weights[""])

    @property
    def trained_weights(self) -> str:
        """Address of a trained model, or an empty string."""
        if self.released:
            return ARCHS[self.backbone].url
        return MMDET_URL + self.mmdet_weights if self.mmdet_weights else ""


_SHORT = {
    "t": "pvt_tiny",
    "s": "pvt_small",
    "m": "pvt_medium",
    "l": "pvt_large",
    **{name: f"pvt_{name}" for name in ("v2_b0", "v2_b1", "v2_b2_li", "v2_b2")},
    **{name: f"pvt_{name}" for name in ("v2_b3", "v2_b4", "v2_b5")},
}
_BIG = ("pvt_v2_b4", "pvt_v2_b5")

_RETINANET = {
    "t": (36.7,),
    "s": (40.4,),
    "m": (41.9,),
    "l": (42.6,),
    "v2_b0": (37.2,),
    "v2_b1": (41.2,),
    "v2_b2_li": (43.6,),
    "v2_b2": (44.6,),
    "v2_b3": (45.9,),
    "v2_b4": (46.1,),
    "v2_b5": (46.2,),
}
# Box AP, memory, checkpoint. Memory of the two largest was measured with one image per GPU.
_RETINANET_MMDET = {
    "t": (36.6, 8.5, "pvt-t", "20210831_103110-17b566bd"),
    "s": (40.4, 14.5, "pvt-s", "20210906_142921-b6c94a5b"),
    "m": (41.7, 20.9, "pvt-m", "20210831_103243-55effa1b"),
    "v2_b0": (37.1, 7.4, "pvtv2-b0", "20210831_103157-13e9aabe"),
    "v2_b1": (41.2, 9.5, "pvtv2-b1", "20210831_103318-7e169a7d"),
    "v2_b2": (44.6, 16.2, "pvtv2-b2", "20210901_174843-529f0b9a"),
    "v2_b3": (46.0, 23.0, "pvtv2-b3", "20210903_151512-8357deff"),
    "v2_b4": (46.3, 17.0, "pvtv2-b4", "20210901_170151-83795c86"),
    "v2_b5": (46.1, 18.7, "pvtv2-b5", "20210902_201800-3420eb57"),
}
_MASK_RCNN = {
    "t": (36.7, 35.1),
    "s": (40.4, 37.8),
    "m": (42.0, 39.0),
    "l": (42.9, 39.5),
    "v2_b0": (38.2, 36.2),
    "v2_b1": (41.8, 38.8),
    "v2_b2_li": (44.1, 40.5),
    "v2_b2": (45.3, 41.2),
    "v2_b3": (47.0, 42.5),
    "v2_b4": (47.5, 42.7),
    "v2_b5": (47.4, 42.5),
}
_SEMANTIC_FPN = {
    "t": (35.7,),
    "s": (39.8,),
    "m": (41.6,),
    "l": (42.1,),
    "v2_b0": (37.2,),
    "v2_b1": (42.5,),
    "v2_b2_li": (45.1,),
    "v2_b2": (45.2,),
    "v2_b3": (47.3,),
    "v2_b4": (47.9,),
    "v2_b5": (48.7,),
}
_SPARSE = "fpn_300_proposals_crop_mstrain_480-800_3x_coco"


def _retinanet(short: str, results: tuple[float, ...]) -> Recipe:
    big = _SHORT[short] in _BIG
    ap, memory, folder, stamp = _RETINANET_MMDET.get(short, (None, None, "", ""))
    name = f"retinanet_{folder}_fpn_1x_coco"
    return Recipe(
        f"retinanet_pvt_{short}_fpn_1x_coco",
        "retinanet",
        _SHORT[short],
        images=1 if big else 2,
        lr=1e-4 / 1.4 if big else 1e-4,
        weight_decay=1e-4,
        epochs=12,
        amp=short == "l",
        results=results,
        mmdet=ap,
        mmdet_memory=memory,
        mmdet_weights=f"{name}/{name}_{stamp}.pth" if folder else "",
    )


def _mask_rcnn(short: str, results: tuple[float, ...]) -> Recipe:
    big = _SHORT[short] in (*_BIG, "pvt_large")
    images, lr = (1, 2e-4 / 1.4) if big else (2, 2e-4)
    name = f"mask_rcnn_pvt_{short}_fpn_1x_coco"
    return Recipe(name, "mask_rcnn", _SHORT[short], images, lr, 1e-4, 12, results=results)


def _semantic_fpn(short: str, results: tuple[float, ...]) -> Recipe:
    name = f"fpn_pvt_{short}_ade20k_40k"
    return Recipe(name, "semantic_fpn", _SHORT[short], 4, 2e-4, 1e-4, 0, results=results)


def _toolbox(
    config: str, family: str, images: int, lr: float, decay: float, epochs: int = 0
) -> list[Recipe]:
    """Both backbones of a recipe of mmdet's or mmseg's, for which nobody published results."""
    return [
        Recipe(config.format(name), family, name, images, lr, decay, epochs)
        for name in ("pvt_v2_b0", "pvt_v2_b2")
    ]


def _classification(backbone: str) -> Recipe:
    top1 = (ARCHS[backbone].top1,)
    return Recipe(
        f"{backbone}_in1k", "classification", backbone, 128, 1e-3, 0.05, 300, results=top1
    )


def _baselines(config: str, family: str, images: int, lr: float, epochs: int) -> list[Recipe]:
    # The papers publish them for their own recipes, of these only RetinaNet with a ResNet-50.
    known = {("retinanet", "r50"): (36.3,)}
    return [
        Recipe(
            config.format(name),
            family,
            name,
            images,
            lr,
            1e-4,
            epochs,
            results=known.get((family, name), ()),
        )
        for name in BASELINES
    ]


def _long(config: str, family: str, li: tuple[float, ...], b2: tuple[float, ...]) -> list[Recipe]:
    """Both backbones of a 3x recipe."""
    lr, decay = (2.5e-5, 1e-4) if family == "sparse_rcnn" else (1e-4, 0.05)
    amp = family != "mask_rcnn"
    pair = (("v2_b2_li", li), ("v2_b2", b2))
    return [
        Recipe(
            config.format(f"pvt_{short}"),
            family,
            _SHORT[short],
            images=2,
            lr=lr,
            weight_decay=decay,
            epochs=36,
            amp=amp,
            results=results,
        )
        for short, results in pair
    ]


RECIPES: dict[str, Recipe] = {
    recipe.config: recipe
    for recipe in (
        *(_retinanet(*item) for item in _RETINANET.items()),
        Recipe(
            "retinanet_pvt_s_fpn_1x_coco_640",
            "retinanet",
            "pvt_small",
            images=2,
            lr=1e-4,
            weight_decay=1e-4,
            epochs=12,
            results=(38.7,),
        ),
        *_baselines("retinanet_{}_fpn_1x_coco", "retinanet", 2, 1e-4, 12),
        *(_mask_rcnn(*item) for item in _MASK_RCNN.items()),
        *_baselines("mask_rcnn_{}_fpn_1x_coco", "mask_rcnn", 2, 2e-4, 12),
        *_long("mask_rcnn_{}_fpn_3x_mstrain", "mask_rcnn", (), (47.8, 43.1)),
        *_long(
            "cascade_mask_rcnn_{}_fpn_3x_mstrain_fp16",
            "cascade_mask_rcnn",
            (50.9, 44.0),
            (51.1, 44.4),
        ),
        *_long("atss_{}_fpn_3x_mstrain_fp16", "atss", (48.9,), (49.9,)),
        *_long("gfl_{}_fpn_3x_mstrain_fp16", "gfl", (49.2,), (50.2,)),
        *_long("sparse_rcnn_{}_" + _SPARSE, "sparse_rcnn", (48.9,), (50.1,)),
        Recipe(
            "detr_pvt_s_8x2_50ep_coco",
            "detr",
            "pvt_small",
            images=2,
            lr=1e-4,
            weight_decay=1e-4,
            epochs=50,
            results=(34.7,),
        ),
        *_toolbox("deformable_detr_{}_50ep_coco", "deformable_detr", 4, 2e-4, 1e-4, 50),
        *_toolbox("dino_{}_4scale_12ep_coco", "dino", 2, 1e-4, 1e-4, 12),
        *_toolbox("mask2former_{}_lsj_50ep_coco", "mask2former", 2, 1e-4, 0.05),
        *(_semantic_fpn(*item) for item in _SEMANTIC_FPN.items()),
        *_baselines("fpn_{}_ade20k_40k", "semantic_fpn", 4, 2e-4, 0),
        *_toolbox("upernet_{}_ade20k_160k", "upernet", 2, 6e-5, 0.01),
        *_toolbox("segformer_{}_ade20k_160k", "segformer", 2, 6e-5, 0.01),
        *_toolbox("mask2former_{}_ade20k_160k", "mask2former_semantic", 2, 1e-4, 0.05),
        _classification("pvt_small"),
        _classification("pvt_v2_b2"),
    )
}
