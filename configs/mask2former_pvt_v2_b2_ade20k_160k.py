# Mask2Former, PVTv2-B2, ADE20K 160k iterations: 8 GPUs x 2 images.
_base_ = "./_base_/mask2former_ade20k_160k.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b2",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b2"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
