# COCO for every detection recipe. Names of its own only: two bases may not set the same key, and
# some recipes inherit a whole config of mmdet.
_base_ = ["./runtime.py"]

# The variable is right with and without a trailing slash.
coco_root = "{{$COCO_ROOT:data/coco/}}".rstrip("/") + "/"
# Labels are places in the classes' names, in whatever order a file of your own has its categories.
coco_dataset = dict(type="pvt_mm.CocoDataset", data_root=coco_root)
coco_metric = dict(
    type="pvt_mm.CocoMetric", ann_file=coco_root + "annotations/instances_val2017.json"
)
