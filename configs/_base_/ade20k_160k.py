# What the recipes of 160k iterations on ADE20K share: 8 GPUs x 2 images, linear decay.
_base_ = [
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/schedules/schedule_160k.py",
    "mmseg::_base_/default_runtime.py",
    "./runtime.py",
]
data_root = "{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}"
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = test_dataloader = dict(dataset=dict(data_root=data_root))

train_cfg = dict(type="pvt_mm.ResumableIterLoop")
default_hooks = dict(checkpoint=dict(type="pvt_mm.SafeCheckpointHook"))
optimizer = dict(_delete_=True, type="AdamW", lr=6e-5, weight_decay=0.01)
optim_wrapper = dict(optimizer=optimizer)
warm_up, max_iters = 1500, 160000
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=warm_up),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=warm_up, end=max_iters),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
