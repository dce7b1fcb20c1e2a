# Mask2Former for instances, COCO, 50 epochs with large-scale jittering: mmdet's recipe.
_base_ = [
    "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    "./coco.py",
    "./mask2former_paramwise.py",
]
model = dict(backbone=dict(_delete_=True))

data_root = _base_.coco_root
train_dataloader = val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

train_cfg = dict(type="pvt_mm.ResumableIterLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.mask2former_keys))
