# Mask R-CNN, PVTv2-B0, COCO 1x: 8 GPUs x 2 images.
_base_ = "./_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b0",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b0"),
    ),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
