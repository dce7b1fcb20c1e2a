# RetinaNet, PVT-Large, COCO 1x: 8 GPUs x 2 images, mixed precision.
_base_ = "./_base_/retinanet_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVT",
        arch="large",
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_large"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

optim_wrapper = dict(type="pvt_mm.AmpOptimWrapper", loss_scale="dynamic")
