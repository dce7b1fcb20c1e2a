# RetinaNet on an FPN from stage 2, COCO 1x; the leaf brings the backbone and the neck's channels.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
    "./coco.py",
]
model = dict(backbone=dict(_delete_=True))

data_root = _base_.coco_root
train_dataloader = val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

train_cfg = dict(type="pvt_mm.ResumableEpochLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=1e-4))
