# Semantic FPN, PVTv2-B0, from random initialisation on the synthetic demo data, for two CPU cores.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/schedules/schedule_20k.py",
    "mmseg::_base_/default_runtime.py",
    "./_base_/runtime.py",
]
randomness = dict(seed=0)

image_size = (128, 128)
channels = 64
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=image_size, test_cfg=dict(size_divisor=32)),
    pretrained=None,
    backbone=dict(_delete_=True, type="pvt_mm.PVTv2", arch="b0"),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=channels),
    decode_head=dict(
        in_channels=[channels] * 4, channels=channels, num_classes=6, norm_cfg=norm_cfg
    ),
)

data_root = "{{$DEMO_ROOT:data/demo/}}"
# In the label maps 0 is unlabelled, 1 the background, 2 and up the objects.
metainfo = dict(
    classes=("background", "disc", "box", "triangle", "star", "ring"),
    palette=[
        (60, 60, 60),
        (230, 60, 60),
        (60, 130, 240),
        (250, 200, 40),
        (160, 70, 220),
        (50, 190, 110),
    ],
)
dataset = dict(
    type="BaseSegDataset",
    data_root=data_root,
    img_suffix=".png",
    reduce_zero_label=True,
    metainfo=metainfo,
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(**dataset, pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 2200
train_cfg = dict(type="pvt_mm.ResumableIterLoop", max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(type="pvt_mm.SafeCheckpointHook", interval=500, max_keep_ckpts=1),
)
