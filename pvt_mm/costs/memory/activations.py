"""What a training step keeps for its backward pass, counted on tensors without memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.backbones.block import Block
from pvt_mm.costs.kept import kept_storages
from pvt_mm.costs.memory.modes import GPUOperators, SoftmaxInputs
from pvt_mm.errors import UserError

__all__ = ["Activations", "NotCounted", "count_activations"]

DEFORMABLE = "MultiScaleDeformableAttention"  # by name: a classifier is counted without mmcv


class NotCounted(UserError):
    """A model of which too much would be left out."""


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of a forward pass; parameters are not among them.

    Attributes:
        kept: All of them.
        blocks: For each transformer block, what it keeps inside.
        block_inputs: What comes into all these blocks.
        softmax_inputs: What torch before 1.11 kept besides.
    """

    kept: int
    blocks: tuple[int, ...]
    block_inputs: int
    softmax_inputs: int

    @property
    def recomputed(self) -> int:
        """What is kept at most if the blocks are computed anew in the backward pass."""
        inside = sum(self.blocks) - max(self.blocks, default=0)
        return self.kept - inside + self.block_inputs


def count_activations(
    model: nn.Module, shape: tuple[int, int], batch: int, amp: bool = False
) -> Activations:
    """Run a model forward on meta tensors, as far as its losses, and add up what is kept.

    Args:
        model: In training mode, on the meta device.
        shape: Height and width of the images in pixels.
        batch: Images.
        amp: Whether to count mixed precision.

    Raises:
        NotCounted: If the model's heads hold deformable attention.
    """
    if DEFORMABLE in {type(module).__name__ for module in model.modules()}:
        raise NotCounted(
            f"the memory of {type(model).__name__} is not estimated: its encoder, which keeps much "
            "of what a step keeps, does not run without real tensors (deformable attention)"
        )
    inputs: list[int] = []
    starts: list[int] = []
    ends: list[int] = []

    def enter(module: nn.Module, args: tuple) -> None:
        inputs.append(args[0].nbytes)
        starts.append(len(kept))

    def leave(*_: Any) -> None:
        ends.append(len(kept))

    images = torch.zeros(batch, 3, *shape, device="meta")
    with (
        _hooks_on_blocks(model, enter, leave),
        kept_storages([*model.parameters(), *model.buffers()]) as kept,
        GPUOperators(amp),
        SoftmaxInputs() as softmax,
    ):
        outputs = _forward(model, images)
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    blocks = tuple(sum(sizes[start:end]) for start, end in zip(starts, ends, strict=True))
    del outputs
    return Activations(sum(sizes), blocks, sum(inputs), softmax.total)


@contextmanager
def _hooks_on_blocks(model: nn.Module, enter: Any, leave: Any) -> Iterator[None]:
    handles = []
    for module in model.modules():
        if isinstance(module, Block):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward(model: nn.Module, images: Tensor) -> list[Any]:
    """Run backbone, neck and heads; regions are as many as are sampled in training.

    The heads of DETR and Sparse R-CNN, which are small, want real boxes and are left out.
    """
    if hasattr(model, "head"):  # a classifier
        return [model(images)]
    maps = model.backbone(images)
    if getattr(model, "neck", None) is not None:
        maps = model.neck(maps)
    if hasattr(model, "decode_head"):
        labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.long, device="meta")
        heads = [model.decode_head, *_as_list(getattr(model, "auxiliary_head", None))]
        logits = [F.interpolate(head(maps), images.shape[2:], mode="bilinear") for head in heads]
        return [F.cross_entropy(each, labels, reduction="none") for each in logits]
    outputs = [maps]
    dense = getattr(model, "bbox_head", None) or getattr(model, "rpn_head", None)
    if hasattr(dense, "forward_single"):
        outputs.append(dense(maps))
        if hasattr(model, "roi_head"):
            outputs += _regions(model.roi_head, maps[0].shape[1], len(images))
    return outputs


def _regions(head: nn.Module, channels: int, batch: int) -> list[Any]:
    outputs = []
    cfgs = head.train_cfg if isinstance(head.train_cfg, (list, tuple)) else [head.train_cfg]
    boxes = _as_list(head.bbox_head)
    masks = _as_list(head.mask_head) if head.with_mask else [None] * len(boxes)
    for cfg, box, mask in zip(cfgs, boxes, masks, strict=True):
        number = batch * cfg.sampler.num
        side = box.roi_feat_size[0]
        outputs.append(box(torch.zeros(number, channels, side, side, device="meta")))
        if mask is not None:
            positive = int(number * cfg.sampler.pos_fraction)
            side = mask.roi_feat_size[0]
            outputs.append(mask(torch.zeros(positive, channels, side, side, device="meta")))
    return outputs


def _as_list(heads: nn.Module | None) -> list[nn.Module]:
    if heads is None:
        return []
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]
