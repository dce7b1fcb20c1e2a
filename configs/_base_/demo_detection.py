# What the two demo detectors share: data, schedule and runtime, sized for two CPU cores.
_base_ = [
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
    "./runtime.py",
]
randomness = dict(seed=0)

data_root = "{{$DEMO_ROOT:data/demo/}}"
val_ann_file = data_root + "/annotations/instances_validation.json"
metainfo = dict(
    classes=("disc", "box", "triangle", "star", "ring"),
    palette=[(230, 60, 60), (60, 130, 240), (250, 200, 40), (160, 70, 220), (50, 190, 110)],
)
image_size = (128, 128)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type="pvt_mm.CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_training.json",
        data_prefix=dict(img="images/training/"),
        filter_cfg=dict(_delete_=True, filter_empty_gt=True),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        type="pvt_mm.CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_validation.json",
        data_prefix=dict(img="images/validation/"),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="pvt_mm.CocoMetric", ann_file=val_ann_file)
test_evaluator = val_evaluator

# Held-out images are looked at once, at the end.
max_epochs = 12
train_cfg = dict(type="pvt_mm.ResumableEpochLoop", max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    # To the last epoch, whichever that is.
    dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(type="pvt_mm.SafeCheckpointHook", interval=1, max_keep_ckpts=1),
)
