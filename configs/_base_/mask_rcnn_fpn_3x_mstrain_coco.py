# Mask R-CNN on an FPN, COCO 3x multi-scale; the leaf brings the backbone and the neck's channels.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
    "./coco_3x_mstrain.py",
]
model = dict(backbone=dict(_delete_=True))

train_pipeline = [
    _base_.crop_mstrain if step.type == "Resize" else step for step in _base_.train_pipeline
]
data_root = _base_.coco_root
train_dataloader = dict(dataset=dict(_base_.coco_dataset, pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

train_cfg = dict(type="pvt_mm.ResumableEpochLoop", max_epochs=36)
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
param_scheduler = _base_.schedule_3x
optim_wrapper = dict(_delete_=True, **_base_.adamw_3x)
