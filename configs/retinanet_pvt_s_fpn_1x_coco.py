# RetinaNet, PVT-Small, COCO 1x: 8 GPUs x 2 images.
_base_ = "./_base_/retinanet_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVT",
        arch="small",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_small"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
