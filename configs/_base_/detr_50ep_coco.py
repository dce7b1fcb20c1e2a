# DETR, COCO, 50 epochs, shorter side 640 to 800; the leaf brings the backbone's last stage.
_base_ = ["mmdet::detr/detr_r50_8xb2-150e_coco.py", "./coco.py"]
model = dict(data_preprocessor=dict(pad_size_divisor=32), backbone=dict(_delete_=True))

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="RandomChoiceResize",
        scales=[(1333, side) for side in range(640, 801, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
data_root = _base_.coco_root
train_dataloader = dict(dataset=dict(_base_.coco_dataset, pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

max_epochs = 50
train_cfg = dict(type="pvt_mm.ResumableEpochLoop", max_epochs=max_epochs)
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
param_scheduler = [
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[33], gamma=0.1)
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
