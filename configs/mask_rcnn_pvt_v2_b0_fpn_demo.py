# Mask R-CNN, PVTv2-B0, from random initialisation on the synthetic demo data, for two CPU cores.
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "./_base_/demo_detection.py"]
# Narrow heads and few proposals: on a CPU most of the time is spent there. Group norm makes up for
# the pre-trained weights that are missing.
channels = 64
norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    backbone=dict(_delete_=True, type="pvt_mm.PVTv2", arch="b0"),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=channels, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(
            type="ConvFCBBoxHead",
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=5,
        ),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(
            in_channels=channels,
            conv_out_channels=channels,
            num_convs=2,
            norm_cfg=norm_cfg,
            num_classes=5,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale={{_base_.image_size}}, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale={{_base_.image_size}}, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator

max_epochs = 9
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
