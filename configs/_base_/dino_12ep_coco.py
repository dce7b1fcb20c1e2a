# DINO with 4 scales, COCO, 12 epochs: mmdet's recipe; the leaf brings the last three stages.
_base_ = ["mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", "./coco.py"]
model = dict(backbone=dict(_delete_=True))

data_root = _base_.coco_root
train_dataloader = val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

train_cfg = dict(type="pvt_mm.ResumableEpochLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))

auto_scale_lr = dict(enable=False)
