# Faster R-CNN of mmdet, PVTv2-B0 of pvt_mm, neck and data of this project.
_base_ = ["mmdet::_base_/models/faster-rcnn_r50_fpn.py", "./runtime.py"]
default_scope = "mmdet"

model = dict(
    backbone=dict(
        _delete_=True,
        type="pvt_mm.PVTv2",
        arch="b0",
        # The official ImageNet weights; None trains from scratch.
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_v2_b0"),
    ),
    neck=dict(type="cells.NormFPN", in_channels=[32, 64, 160, 256]),
    roi_head=dict(bbox_head=dict(num_classes=1)),
)
train_dataloader = dict(dataset=dict(type="cells.CellBoxes"))
