"""What the papers' recipes say, by hand, and how the tests read the configs."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Those of detection and segmentation; the classifiers' have tests of their own.
NAMES = sorted(
    path.stem for path in CONFIGS.glob("*.py") if not path.stem.endswith(("_demo", "_in1k"))
)

# The recipes, by hand: backbone, drop path, images per GPU, learning rate, mixed precision.
TABLE = """
retinanet_pvt_t_fpn_1x_coco               pvt_tiny     0.1  2  1e-4      1e-4 -
retinanet_pvt_s_fpn_1x_coco               pvt_small    0.1  2  1e-4      1e-4 -
retinanet_pvt_s_fpn_1x_coco_640           pvt_small    0.1  2  1e-4      1e-4 -
retinanet_pvt_m_fpn_1x_coco               pvt_medium   0    2  1e-4      1e-4 -
retinanet_pvt_l_fpn_1x_coco               pvt_large    0    2  1e-4      1e-4 amp
retinanet_pvt_v2_b0_fpn_1x_coco           pvt_v2_b0    0.1  2  1e-4      1e-4 -
retinanet_pvt_v2_b1_fpn_1x_coco           pvt_v2_b1    0.1  2  1e-4      1e-4 -
retinanet_pvt_v2_b2_li_fpn_1x_coco        pvt_v2_b2_li 0.1  2  1e-4      1e-4 -
retinanet_pvt_v2_b2_fpn_1x_coco           pvt_v2_b2    0.1  2  1e-4      1e-4 -
retinanet_pvt_v2_b3_fpn_1x_coco           pvt_v2_b3    0.1  2  1e-4      1e-4 -
retinanet_pvt_v2_b4_fpn_1x_coco           pvt_v2_b4    0.1  1  7.1429e-5 1e-4 -
retinanet_pvt_v2_b5_fpn_1x_coco           pvt_v2_b5    0.1  1  7.1429e-5 1e-4 -
retinanet_r50_fpn_1x_coco                 r50          -    2  1e-4      1e-4 -
retinanet_swin_t_fpn_1x_coco              swin_t       0.2  2  1e-4      1e-4 -
mask_rcnn_pvt_t_fpn_1x_coco               pvt_tiny     0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_s_fpn_1x_coco               pvt_small    0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_m_fpn_1x_coco               pvt_medium   0    2  2e-4      1e-4 -
mask_rcnn_pvt_l_fpn_1x_coco               pvt_large    0    1  1.4286e-4 1e-4 -
mask_rcnn_pvt_v2_b0_fpn_1x_coco           pvt_v2_b0    0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_v2_b1_fpn_1x_coco           pvt_v2_b1    0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_v2_b2_li_fpn_1x_coco        pvt_v2_b2_li 0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_v2_b2_fpn_1x_coco           pvt_v2_b2    0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_v2_b3_fpn_1x_coco           pvt_v2_b3    0.1  2  2e-4      1e-4 -
mask_rcnn_pvt_v2_b4_fpn_1x_coco           pvt_v2_b4    0.1  1  1.4286e-4 1e-4 -
mask_rcnn_pvt_v2_b5_fpn_1x_coco           pvt_v2_b5    0.1  1  1.4286e-4 1e-4 -
mask_rcnn_r50_fpn_1x_coco                 r50          -    2  2e-4      1e-4 -
mask_rcnn_swin_t_fpn_1x_coco              swin_t       0.2  2  2e-4      1e-4 -
mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain     pvt_v2_b2_li 0.1  2  1e-4      0.05 -
mask_rcnn_pvt_v2_b2_fpn_3x_mstrain        pvt_v2_b2    0.1  2  1e-4      0.05 -
cascade_mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain_fp16
                                          pvt_v2_b2_li 0.1  2  1e-4      0.05 amp
cascade_mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16
                                          pvt_v2_b2    0.1  2  1e-4      0.05 amp
atss_pvt_v2_b2_li_fpn_3x_mstrain_fp16     pvt_v2_b2_li 0.1  2  1e-4      0.05 amp
atss_pvt_v2_b2_fpn_3x_mstrain_fp16        pvt_v2_b2    0.1  2  1e-4      0.05 amp
gfl_pvt_v2_b2_li_fpn_3x_mstrain_fp16      pvt_v2_b2_li 0.1  2  1e-4      0.05 amp
gfl_pvt_v2_b2_fpn_3x_mstrain_fp16         pvt_v2_b2    0.1  2  1e-4      0.05 amp
sparse_rcnn_pvt_v2_b2_li_fpn_300_proposals_crop_mstrain_480-800_3x_coco
                                          pvt_v2_b2_li 0.1  2  2.5e-5    1e-4 amp
sparse_rcnn_pvt_v2_b2_fpn_300_proposals_crop_mstrain_480-800_3x_coco
                                          pvt_v2_b2    0.1  2  2.5e-5    1e-4 amp
detr_pvt_s_8x2_50ep_coco                  pvt_small    0.1  2  1e-4      1e-4 -
fpn_pvt_t_ade20k_40k                      pvt_tiny     0.1  4  2e-4      1e-4 -
fpn_pvt_s_ade20k_40k                      pvt_small    0.1  4  2e-4      1e-4 -
fpn_pvt_m_ade20k_40k                      pvt_medium   0.1  4  2e-4      1e-4 -
fpn_pvt_l_ade20k_40k                      pvt_large    0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b0_ade20k_40k                  pvt_v2_b0    0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b1_ade20k_40k                  pvt_v2_b1    0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b2_li_ade20k_40k               pvt_v2_b2_li 0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b2_ade20k_40k                  pvt_v2_b2    0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b3_ade20k_40k                  pvt_v2_b3    0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b4_ade20k_40k                  pvt_v2_b4    0.1  4  2e-4      1e-4 -
fpn_pvt_v2_b5_ade20k_40k                  pvt_v2_b5    0.1  4  2e-4      1e-4 -
fpn_r50_ade20k_40k                        r50          -    4  2e-4      1e-4 -
fpn_swin_t_ade20k_40k                     swin_t       0.2  4  2e-4      1e-4 -
"""
# The toolboxes' recipes with PVT, by hand from mmdet's and mmseg's configs of the same heads.
MODERN_TABLE = """
deformable_detr_pvt_v2_b0_50ep_coco       pvt_v2_b0    0.1  4  2e-4      1e-4 -
deformable_detr_pvt_v2_b2_50ep_coco       pvt_v2_b2    0.1  4  2e-4      1e-4 -
dino_pvt_v2_b0_4scale_12ep_coco           pvt_v2_b0    0.1  2  1e-4      1e-4 -
dino_pvt_v2_b2_4scale_12ep_coco           pvt_v2_b2    0.1  2  1e-4      1e-4 -
mask2former_pvt_v2_b0_lsj_50ep_coco       pvt_v2_b0    0.1  2  1e-4      0.05 -
mask2former_pvt_v2_b2_lsj_50ep_coco       pvt_v2_b2    0.1  2  1e-4      0.05 -
upernet_pvt_v2_b0_ade20k_160k             pvt_v2_b0    0.1  2  6e-5      0.01 -
upernet_pvt_v2_b2_ade20k_160k             pvt_v2_b2    0.1  2  6e-5      0.01 -
segformer_pvt_v2_b0_ade20k_160k           pvt_v2_b0    0.1  2  6e-5      0.01 -
segformer_pvt_v2_b2_ade20k_160k           pvt_v2_b2    0.1  2  6e-5      0.01 -
mask2former_pvt_v2_b0_ade20k_160k         pvt_v2_b0    0.1  2  1e-4      0.05 -
mask2former_pvt_v2_b2_ade20k_160k         pvt_v2_b2    0.1  2  1e-4      0.05 -
"""
MODERN = MODERN_TABLE.split()[::7]
columns = [(TABLE + MODERN_TABLE).split()[column::7] for column in range(7)]
ROWS = {
    name: (weights, drop_path, int(images), float(lr), float(decay), amp == "amp")
    for name, weights, drop_path, images, lr, decay, amp in zip(*columns, strict=True)
}
PVT_NAMES = [name for name, row in ROWS.items() if row[0].startswith("pvt_")]
# What their weights' names begin with.
BASELINE_WEIGHTS = {
    "r50": ("torchvision://resnet50", "open-mmlab://resnet50_v1c"),
    "swin_t": ("https://",),
}
BASELINE_CHANNELS = {"r50": [256, 512, 1024, 2048], "swin_t": [96, 192, 384, 768]}

# By the name's first word: the detector, its gradient clip, the neck that differs between heads.
HEADS = {
    "retinanet": ("RetinaNet", None, dict(start_level=1, add_extra_convs="on_input", num_outs=5)),
    "mask": ("MaskRCNN", None, dict(num_outs=5)),
    "cascade": ("CascadeRCNN", None, dict(num_outs=5)),
    "atss": ("ATSS", None, dict(start_level=1, add_extra_convs="on_output", num_outs=5)),
    "gfl": ("GFL", None, dict(start_level=1, add_extra_convs="on_output", num_outs=5)),
    "sparse": ("SparseRCNN", 1, dict(start_level=0, num_outs=4)),
    "detr": ("DETR", 0.1, dict(num_outs=1)),
    "fpn": ("EncoderDecoder", None, dict(num_outs=4)),
    "deformable": ("DeformableDETR", 0.1, dict(num_outs=4)),
    "dino": ("DINO", 0.1, dict(num_outs=4)),
    "mask2former": ("Mask2Former", 0.01, {}),
    "upernet": ("EncoderDecoder", None, {}),
    "segformer": ("EncoderDecoder", None, {}),
}
# By a word of the name: epochs and steps.
SCHEDULES = {"1x": (12, [8, 11]), "3x": (36, [27, 33]), "50ep": (50, [33])}
# One config per file of _base_, and the one leaf that changes the data itself.
ONE_PER_RECIPE = [
    "retinanet_pvt_t_fpn_1x_coco",
    "retinanet_pvt_s_fpn_1x_coco_640",
    "mask_rcnn_pvt_v2_b0_fpn_1x_coco",
    "mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain",
    "cascade_mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain_fp16",
    "atss_pvt_v2_b2_fpn_3x_mstrain_fp16",
    "gfl_pvt_v2_b2_li_fpn_3x_mstrain_fp16",
    "sparse_rcnn_pvt_v2_b2_li_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
    "detr_pvt_s_8x2_50ep_coco",
    "fpn_pvt_v2_b2_li_ade20k_40k",
    *MODERN[::2],
]


def head_of(name):
    """Return the model's type, its gradient clip and its neck."""
    kind, clip, neck = HEADS[name.split("_")[0]]
    return "EncoderDecoder" if "ade20k" in name else kind, clip, neck


def in_channels(model):
    """Return the channels that the first module after the backbone expects."""
    after = next(key for key in ("neck", "panoptic_head", "decode_head") if key in model)
    return model[after].in_channels


def read(name, **environment):
    """Parse a config under these data roots and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("COCO_ROOT", "ADE20K_ROOT"):
            patch.delenv(variable, raising=False)
        for variable, value in environment.items():
            patch.setenv(variable, str(value))
        return Config.fromfile(CONFIGS / f"{name}.py")


@functools.cache
def parsed(name):
    """Return the config as it stands, to be left as it is."""
    return read(name)


def fresh(name):
    """Return a copy of the config that a test may change."""
    return copy.deepcopy(parsed(name))


def build_model(cfg, device="cpu"):
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device(device):
        return MODELS.build(copy.deepcopy(cfg.model))  # some heads change their config
