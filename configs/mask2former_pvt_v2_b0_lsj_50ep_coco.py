# Mask2Former for instances, PVTv2-B0, COCO 50 epochs: 8 GPUs x 2 images.
_base_ = "./_base_/mask2former_50ep_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b0",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b0"),
    ),
    panoptic_head=dict(in_channels=[32, 64, 160, 256]),
)
