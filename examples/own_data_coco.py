# RetinaNet-PVTv2-B0 on data of your own in COCO format; here the demo data stand in for them.
# What to change is above the line, and why is in docs/own_data.md.
_base_ = "../configs/retinanet_pvt_v2_b0_fpn_1x_coco.py"
data_root = "{{$DEMO_ROOT:data/demo/}}".rstrip("/") + "/"
train_ann = "annotations/instances_training.json"
train_images = "images/training/"
val_ann = "annotations/instances_validation.json"
val_images = "images/validation/"
classes = ("disc", "box", "triangle", "star", "ring")
image_size = (256, 256)  # an image is scaled to fit into it
images_per_step = 8  # on all GPUs together; the learning rate is scaled to it
epochs = 12
# ---------------------------------------------------------------------------------------------
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=images_per_step,
    dataset=dict(
        **dataset, ann_file=train_ann, data_prefix=dict(img=train_images), pipeline=train_pipeline
    ),
)
val_dataloader = test_dataloader = dict(
    dataset=dict(
        **dataset, ann_file=val_ann, data_prefix=dict(img=val_images), pipeline=test_pipeline
    )
)
val_evaluator = test_evaluator = dict(ann_file=data_root + val_ann)
model = dict(bbox_head=dict(num_classes=len(classes)))
# The recipe's rate is for 16 images a step.
optim_wrapper = dict(optimizer=dict(lr=1e-4 * images_per_step / 16), clip_grad=dict(max_norm=1.0))
train_cfg = dict(max_epochs=epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True),
]
