# Sparse R-CNN with 300 proposals, COCO 3x multi-scale with crops, mixed precision: mmdet's recipe.
_base_ = [
    "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py",
    "./coco.py",
]
# The default eps vanishes in half precision: log(1 - p) is then infinite once a score nears 1.
match_costs = [
    dict(type="FocalLossCost", weight=2.0, eps=1e-4),
    dict(type="BBoxL1Cost", weight=5.0, box_format="xyxy"),
    dict(type="IoUCost", iou_mode="giou", weight=2.0),
]
model = dict(
    backbone=dict(_delete_=True),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(type="HungarianAssigner", match_costs=match_costs),
                sampler=dict(type="PseudoSampler"),
                pos_weight=1,
            )
            for _ in range(6)
        ]
    ),
)

data_root = _base_.coco_root
train_dataloader = val_dataloader = test_dataloader = dict(dataset=_base_.coco_dataset)
val_evaluator = test_evaluator = _base_.coco_metric

train_cfg = dict(type="pvt_mm.ResumableEpochLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
optim_wrapper = dict(type="pvt_mm.AmpOptimWrapper", loss_scale="dynamic")
