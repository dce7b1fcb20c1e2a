# Deformable DETR, COCO, 50 epochs: mmdet's recipe; the leaf brings the last three stages.
_base_ = ["mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", "./coco.py"]
model = dict(backbone=dict(_delete_=True))

data_root = _base_.coco_root
# mmdet's 16 GPUs x 2 images on the 8 GPUs of the other recipes.
train_dataloader = dict(batch_size=4, dataset=_base_.coco_dataset)
val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

train_cfg = dict(type="pvt_mm.ResumableEpochLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))

auto_scale_lr = dict(enable=False)
