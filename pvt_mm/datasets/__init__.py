"""The synthetic demo data set."""

from .demo import CLASSES, SEG_CLASSES, DemoSpec, demo_root, make_demo_data

__all__ = ["CLASSES", "SEG_CLASSES", "DemoSpec", "demo_root", "make_demo_data"]
