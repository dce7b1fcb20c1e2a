# PVT-Small classifier, ImageNet-1k, from scratch: 8 GPUs x 128 images.
_base_ = ["./_base_/in1k.py"]
model = dict(backbone=dict(type="pvt_mm.PVT", arch="small", drop_path_rate=0.1))
