"""What autograd keeps of a forward pass until the backward pass: the one counter of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["activation_bytes", "kept_storages"]


@contextmanager
def kept_storages(own: Iterable[Tensor]) -> Iterator[dict[int, Tensor]]:
    """Collect what is kept inside the block, each storage once.

    Args:
        own: Tensors that are there anyway, such as parameters; they are left out.

    Yields:
        A tensor of each storage, in the order in which they were kept. That holds the storages
        alive, so that none is taken for another.
    """
    known = {tensor.untyped_storage()._cdata for tensor in own}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in known:
            kept.setdefault(storage, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def activation_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Sum what autograd keeps of a forward pass until the backward pass, without running it.

    Parameters are not counted, and each storage is counted once. Views, workspaces and gradients
    come on top of it in a real training step.

    Args:
        model: A module of one tensor; it is measured in training mode.
        shape: Shape of the input, ``(B, C, h, w)``, float32.

    Returns:
        Bytes.
    """
    training = model.training
    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            # Held as long as the pass runs: the mode remembers its copies only weakly.
            copies = [mode.from_tensor(parameter) for parameter in model.parameters()]
            with kept_storages([*copies, *model.parameters()]) as kept:
                outputs = model(torch.zeros(shape))
            total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del outputs
    finally:
        model.train(training)
    return total
