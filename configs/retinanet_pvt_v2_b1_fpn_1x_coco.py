# RetinaNet, PVTv2-B1, COCO 1x: 8 GPUs x 2 images.
_base_ = "./_base_/retinanet_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b1",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b1"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
