# What every recipe runs with, whoever starts it: our tools, mim, or mmdet's and mmseg's own.
_base_ = "./hooks.py"
custom_imports = dict(imports=["pvt_mm"], allow_failed_imports=False)
