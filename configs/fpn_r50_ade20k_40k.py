# Semantic FPN, ResNet-50, ADE20K 40k iterations: 8 GPUs x 4 images. The PVT recipe (AdamW).
_base_ = "./_base_/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(
        type="ResNetV1c",
        depth=50,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnet50_v1c"),
    )
)
