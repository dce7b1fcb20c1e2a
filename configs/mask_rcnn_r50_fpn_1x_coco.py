# Mask R-CNN, ResNet-50, COCO 1x: 8 GPUs x 2 images. The PVT recipe (AdamW), not mmdet's SGD.
_base_ = "./_base_/mask_rcnn_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    )
)
