# COCO for every detection recipe. Names of its own only: two bases may not set the same key, and
# some recipes inherit a whole config of mmdet.
_base_ = ["./runtime.py"]

# The variable is right with and without a trailing slash.
coco_root = "{{$COCO_ROOT:data/coco/}}".rstrip("/") + "/"
coco_val = "annotations/instances_val2017.json"
