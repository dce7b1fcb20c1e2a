# RetinaNet, Swin-T, COCO 1x: 8 GPUs x 2 images. The PVT recipe; drop path as in mmdet's Swin-T.
_base_ = "./_base_/retinanet_fpn_1x_coco.py"
release = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
model = dict(
    backbone=dict(
        type="SwinTransformer",
        out_indices=(1, 2, 3),  # as in mmdet: stage 1 has a norm that nothing would use
        drop_path_rate=0.2,
        convert_weights=True,
        init_cfg=dict(type="Pretrained", checkpoint=release + "swin_tiny_patch4_window7_224.pth"),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
