# Mask R-CNN, PVT-Large, COCO 1x: 8 GPUs x 1 image.
_base_ = "./_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVT",
        arch="large",
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_large"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
auto_scale_lr = dict(base_batch_size=8)
