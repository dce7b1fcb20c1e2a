# GFL on an FPN with extra levels on its output, COCO 3x multi-scale, mixed precision.
_base_ = ["mmdet::gfl/gfl_r50_fpn_1x_coco.py", "./coco_3x_mstrain.py"]
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
optim_wrapper = dict(_delete_=True, **_base_.amp_3x)
