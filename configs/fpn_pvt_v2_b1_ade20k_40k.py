# Semantic FPN, PVTv2-B1, ADE20K 40k iterations: 8 GPUs x 4 images.
_base_ = "./_base_/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b1",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b1"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
