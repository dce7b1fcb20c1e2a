# Mask R-CNN, PVTv2-B4, COCO 1x: 8 GPUs x 1 image.
_base_ = "./_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVTv2",
        arch="b4",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b4"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
auto_scale_lr = dict(base_batch_size=8)
