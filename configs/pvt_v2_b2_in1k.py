# PVTv2-B2 classifier, ImageNet-1k, from scratch: 8 GPUs x 128 images.
_base_ = ["./_base_/in1k.py"]
model = dict(backbone=dict(type="pvt_mm.PVTv2", arch="b2", drop_path_rate=0.1))
