# What every recipe runs with, whoever starts it: our tools, mim, or mmdet's and mmseg's own.
custom_imports = dict(imports=["pvt_mm"], allow_failed_imports=False)

# Fast twins in the place of the PVTs' plain modules; without it the results are the same.
custom_hooks = [dict(type="pvt_mm.AccelerateHook")]
