# Mask R-CNN, PVT-Tiny, COCO 1x: 8 GPUs x 2 images.
_base_ = "./_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVT",
        arch="tiny",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_tiny"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
