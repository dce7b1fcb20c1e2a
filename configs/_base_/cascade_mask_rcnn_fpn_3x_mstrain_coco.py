# Cascade Mask R-CNN on an FPN, COCO 3x multi-scale, mixed precision; the leaf brings the backbone.
_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
    "./coco_3x_mstrain.py",
]
model = dict(
    backbone=dict(_delete_=True),
    roi_head=dict(
        bbox_head=[
            dict(
                type="Shared4Conv1FCBBoxHead",
                in_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                norm_cfg=dict(type="SyncBN", requires_grad=True),
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ]
    ),
)

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
