# DETR, PVT-Small, COCO 50 epochs: 8 GPUs x 2 images.
_base_ = "./_base_/detr_50ep_coco.py"
model = dict(
    backbone=dict(
        type="pvt_mm.PVT",
        arch="small",
        out_indices=(3,),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_small"),
    ),
    neck=dict(in_channels=[512]),
)
