# What both share. Only the scopes in the types lead to pvt_mm and to this project.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="mmengine.DefaultSampler", shuffle=True),
    collate_fn=dict(type="mmengine.pseudo_collate"),
    dataset=dict(count=16, size=64),
)
train_cfg = dict(type="mmengine.EpochBasedTrainLoop", max_epochs=2)
optim_wrapper = dict(
    type="mmengine.OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
