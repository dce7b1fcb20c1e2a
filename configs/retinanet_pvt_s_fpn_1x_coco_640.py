# RetinaNet, PVT-Small, COCO 1x at 1066x640: 8 GPUs x 2 images.
_base_ = "./retinanet_pvt_s_fpn_1x_coco.py"

resize = dict(type="Resize", scale=(1066, 640), keep_ratio=True)
train_pipeline = [resize if step.type == "Resize" else step for step in _base_.train_pipeline]
test_pipeline = [resize if step.type == "Resize" else step for step in _base_.test_pipeline]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
