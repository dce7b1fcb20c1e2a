"""The synthetic demo data set."""

from pvt_mm.data.demo.dataset import CLASSES, SEG_CLASSES, DemoSpec, demo_root, make_demo_data

__all__ = ["CLASSES", "SEG_CLASSES", "DemoSpec", "demo_root", "make_demo_data"]
