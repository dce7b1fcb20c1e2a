# Semantic FPN, Swin-T, ADE20K 40k iterations: 8 GPUs x 4 images. The PVT recipe.
_base_ = "./_base_/fpn_ade20k_40k.py"
release = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
model = dict(
    backbone=dict(
        type="SwinTransformer",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint=release + "swin_tiny_patch4_window7_224_20220317-1cdeb081.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
