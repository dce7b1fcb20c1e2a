# Semantic FPN, ADE20K, 40k iterations; the leaf brings the backbone and the neck's channels.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/schedules/schedule_40k.py",
    "mmseg::_base_/default_runtime.py",
    "./runtime.py",
]

# Padded in testing, too, for views that test-time augmentation makes smaller.
data_preprocessor = dict(size=(512, 512), test_cfg=dict(size_divisor=32))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,  # mmseg would hand ResNet-50's weights to any backbone
    backbone=dict(_delete_=True),
    decode_head=dict(num_classes=150),
)

data_root = "{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}"
# mmseg's own, but for reduce_zero_label, which the data set says.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    # After the resizing: the ground truth keeps its size.
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

optimizer = dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=1e-4)
train_cfg = dict(type="pvt_mm.ResumableIterLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
optim_wrapper = dict(optimizer=optimizer)
param_scheduler = [dict(type="PolyLR", by_epoch=False, begin=0, end=40000, power=0.9, eta_min=0.0)]

auto_scale_lr = dict(enable=False, base_batch_size=32)
