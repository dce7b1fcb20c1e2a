# A classifier on ImageNet-1k: 8 GPUs x 128 images, 300 epochs; the leaf brings the backbone.
# The recipe of the official code, which is DeiT's: https://arxiv.org/abs/2012.12877
_base_ = ["./runtime.py"]
default_scope = "mmengine"

num_classes = 1000
model = dict(
    type="pvt_mm.PVTClassifier",
    num_classes=num_classes,
    label_smoothing=0.1,
    data_preprocessor=dict(
        type="pvt_mm.ClsDataPreprocessor",
        erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        num_classes=num_classes,
    ),
)

data_root = "{{$IMAGENET_ROOT:data/imagenet}}"
loader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="default_collate"),
)
train_dataloader = dict(
    **loader,
    drop_last=True,
    sampler=dict(type="pvt_mm.RepeatedAugmentationSampler", num_repeats=3),
    dataset=dict(
        type="pvt_mm.ImageFolder",
        data_root=data_root,
        data_prefix=dict(img_path="train"),
        pipeline=[
            dict(
                type="pvt_mm.DeiTAugment",
                size=224,
                num_ops=2,
                op_prob=0.5,
                magnitude=9.0,
                magnitude_std=0.5,
            )
        ],
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="pvt_mm.ImageFolder",
        data_root=data_root,
        data_prefix=dict(img_path="val"),
        pipeline=[dict(type="pvt_mm.CenterCrop", size=224)],
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="pvt_mm.TopKAccuracy", topk=(1, 5))
test_evaluator = val_evaluator

warm_up, max_epochs = 5, 300
train_cfg = dict(type="pvt_mm.ResumableEpochLoop", max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    # No decay of norms, biases and the learned embeddings.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"pos_embed": dict(decay_mult=0.0), "cls_token": dict(decay_mult=0.0)},
    ),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        begin=0,
        end=warm_up,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        T_max=max_epochs - warm_up,
        begin=warm_up,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=1024)

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=100),
    checkpoint=dict(
        type="pvt_mm.SafeCheckpointHook",
        interval=1,
        max_keep_ckpts=3,
        save_best="accuracy/top1",
        rule="greater",
    ),
)
env_cfg = dict(cudnn_benchmark=True)
log_processor = dict(window_size=20, by_epoch=True)
