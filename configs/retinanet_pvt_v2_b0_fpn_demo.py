# RetinaNet, PVTv2-B0, from random initialisation on the synthetic demo data, for two CPU cores.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "./_base_/demo_detection.py"]
model = dict(
    backbone=dict(_delete_=True, type="pvt_mm.PVTv2", arch="b0"),
    # Objects are 20 to 90 pixels wide: three levels are enough.
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=128, add_extra_convs=False, num_outs=3),
    bbox_head=dict(
        num_classes=5,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type="GN", num_groups=32),
        anchor_generator=dict(octave_base_scale=3, ratios=[1.0], strides=[8, 16, 32]),
    ),
)
