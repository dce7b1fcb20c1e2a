# DINO, PVTv2-B2, COCO 12 epochs: 8 GPUs x 2 images.
_base_ = "./_base_/dino_12ep_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b2",
        out_indices=(1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b2"),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
