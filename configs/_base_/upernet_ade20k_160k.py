# UPerNet, ADE20K, 160k iterations: mmseg's recipe for Swin.
_base_ = ["mmseg::_base_/models/upernet_swin.py", "./ade20k_160k.py"]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))))
