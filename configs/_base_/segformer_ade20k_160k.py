# SegFormer's head, ADE20K, 160k iterations: mmseg's recipe for SegFormer.
_base_ = ["mmseg::_base_/models/segformer_mit-b0.py", "./ade20k_160k.py"]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True),
    decode_head=dict(num_classes=150),
)
custom_keys = dict(norm=dict(decay_mult=0.0), head=dict(lr_mult=10.0))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=custom_keys))
