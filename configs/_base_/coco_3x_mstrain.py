# What the 3x multi-scale recipes share, by name, on top of coco.py.
_base_ = "./coco.py"

# Half of the images as DETR crops them: a first resize, a crop, and the usual resize.
short_sides = [(side, 1333) for side in range(480, 801, 32)]
crop_mstrain = dict(
    type="RandomChoice",
    transforms=[
        [dict(type="RandomChoiceResize", scales=short_sides, keep_ratio=True)],
        [
            dict(
                type="RandomChoiceResize",
                scales=[(400, 1333), (500, 1333), (600, 1333)],
                keep_ratio=True,
            ),
            dict(
                type="RandomCrop",
                crop_type="absolute_range",
                crop_size=(384, 600),
                allow_negative_crop=True,
            ),
            dict(type="RandomChoiceResize", scales=short_sides, keep_ratio=True),
        ],
    ],
)

schedule_3x = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
adamw_3x = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
amp_3x = dict(adamw_3x, type="pvt_mm.AmpOptimWrapper", loss_scale="dynamic")
