# Semantic FPN, PVT-Large, ADE20K 40k iterations: 8 GPUs x 4 images.
_base_ = "./_base_/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVT",
        arch="large",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_large"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
