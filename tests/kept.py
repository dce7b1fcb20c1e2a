"""What autograd really keeps of a forward pass."""

import torch


def kept_bytes(backbone, shape):
    """Run a backbone; return its outputs, and the bytes kept for the backward pass.

    Parameters are not counted, and each storage is counted once.
    """
    own = {p.untyped_storage()._cdata for p in backbone.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = backbone(torch.zeros(shape))
    return outputs, sum(t.untyped_storage().nbytes() for c, t in kept.items() if c not in own)
