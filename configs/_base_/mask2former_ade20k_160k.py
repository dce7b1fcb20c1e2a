# Mask2Former for semantic segmentation, ADE20K, 160k iterations: mmseg's recipe.
_base_ = [
    "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py",
    "./hooks.py",
    "./mask2former_paramwise.py",
]
custom_imports = dict(imports=["pvt_mm", "mmdet.models"])  # mmseg's own, and ours
model = dict(backbone=dict(_delete_=True))

data_root = "{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}"
train_dataloader = val_dataloader = test_dataloader = dict(dataset=dict(data_root=data_root))

train_cfg = dict(type="pvt_mm.ResumableIterLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.mask2former_keys))
