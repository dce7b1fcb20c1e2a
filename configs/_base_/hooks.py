# What the hooks of every recipe are, whatever else its config imports.
custom_hooks = [
    # Fast twins in the place of the PVTs' plain modules; without it the results are the same. On a
    # CPU recompute=True trains with a third less memory, more slowly.
    dict(type="pvt_mm.AccelerateHook"),
    # In bfloat16, boxes are computed in float32.
    dict(type="pvt_mm.Float32BoxesHook"),
    # A checkpoint must be this network's; mmengine alone loads what fits and goes on.
    dict(type="pvt_mm.MatchingKeysHook"),
    # A warm-up that does not end, and a schedule that a resumed training does not follow, are said.
    dict(type="pvt_mm.ScheduleHook"),
    # A metric that rests on nothing, or on a part of the classes, is said to.
    dict(type="pvt_mm.EvidenceHook"),
    # A bad sample is named, or left out, up to skip_bad_images of them.
    dict(type="pvt_mm.BadSamplesHook"),
    # Stops before a loss or a gradient that is no number; skip=True leaves such steps out.
    dict(type="pvt_mm.DivergenceHook", skip=False),
    # SIGTERM and SIGINT: a checkpoint at the end of the iteration.
    dict(type="pvt_mm.InterruptionHook"),
]
skip_bad_images = 0
