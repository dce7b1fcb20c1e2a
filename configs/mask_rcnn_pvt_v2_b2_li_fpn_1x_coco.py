# Mask R-CNN, PVTv2-B2-Li, COCO 1x: 8 GPUs x 2 images.
_base_ = "./_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b2_li",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b2_li"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
