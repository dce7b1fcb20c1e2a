# UPerNet of mmseg, PVT-Small of pvt_mm, data of this project.
_base_ = ["mmseg::_base_/models/upernet_r50.py", "./runtime.py"]
default_scope = "mmseg"

norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    pretrained=None,  # mmseg would hand ResNet-50's weights to the backbone
    backbone=dict(
        _delete_=True,
        type="pvt_mm.PVT",
        arch="small",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pvt://pvt_small"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=2, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=320, num_classes=2, norm_cfg=norm_cfg),
)
train_dataloader = dict(dataset=dict(type="cells.CellMasks"))
