# DINO, PVTv2-B0, COCO 12 epochs: 8 GPUs x 2 images.
_base_ = "./_base_/dino_12ep_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b0",
        out_indices=(1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b0"),
    ),
    neck=dict(in_channels=[64, 160, 256]),
)
