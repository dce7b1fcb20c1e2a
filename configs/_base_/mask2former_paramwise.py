# Which parameters Mask2Former trains slower and which it does not decay. The longest key that is
# part of a parameter's name decides; a multiplier that a key leaves out is 1.
no_decay = dict(decay_mult=0.0)
norms = ["norm", "norm1", "norm2", "norm3", "norm4"]  # PVT's, in blocks, embeddings and stages
mask2former_keys = dict(
    backbone=dict(lr_mult=0.1),
    query_embed=no_decay,
    query_feat=no_decay,
    level_embed=no_decay,
)
for key in [f".{norm}.{kind}" for norm in norms for kind in ("weight", "bias")]:
    mask2former_keys[key] = dict(lr_mult=0.1, decay_mult=0.0)
del key
