"""A block without a gradient whose layers were looked up once, for all calls of one shape.

At 224x224 a tenth of an image's time goes into finding layers and prepacked weights in a block's
modules, and into the calls between these. What is left of it here is the look whether they are
still the same.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial
from itertools import chain
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pvt_mm.backbones.attention import LinearSpatialReductionAttention
from pvt_mm.backbones.mlp import ConvMlp
from pvt_mm.kernels.cpu import prepacked
from pvt_mm.kernels.cpu.dot_product import attend
from pvt_mm.kernels.cpu.linear import linear
from pvt_mm.kernels.cpu.prepacked import Packed, prepack
from pvt_mm.kernels.parts import has_global_hooks
from pvt_mm.tokens import map_to_tokens, tokens_to_map

if TYPE_CHECKING:
    from pvt_mm.kernels.modules import FastAttention, FastBlock

__all__ = ["BoundBlock", "add_branch", "bind", "find", "forget"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, M reduced tokens, C channels,
# E hidden channels, h heads, d = C/h channels of a head.

Operator = Callable[[Tensor], Tensor]
Situation = tuple[Any, ...]

_hooks_of = itemgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)


class BoundBlock:
    """A :class:`~pvt_mm.kernels.modules.FastBlock` for tokens of one shape.

    Args:
        block: In evaluation mode; all of its parts are the usual ones.
        tokens: ``(B, N, C)``, as in the calls to come.
        hw: ``(H, W)`` in tokens.
    """

    def __init__(self, block: FastBlock, tokens: Tensor, hw: tuple[int, int]) -> None:
        attn, mlp = block.attn, block.mlp
        self._situation = _situation(tokens, hw)
        self._hw, self._attn, self._act = hw, attn, mlp.act
        batch, heads = tokens.shape[0], attn.num_heads
        self._heads = (batch, -1, heads, tokens.shape[2] // heads)  # (B, n, h, d)
        self._pairs = (batch, -1, 2, *self._heads[2:])  # keys and values
        self._convs: list[nn.Conv2d] = []
        self._sources: list[Tensor] = []  # parameters whose values were prepacked

        self._norm1, self._norm2 = block.norm1.forward, block.norm2.forward
        self._q = self._project(attn.q, tokens)
        self._reduce, reduced = self._reduction(attn, tokens)
        self._kv = self._project(attn.kv, reduced)
        self._proj = self._project(attn.proj, tokens)
        self._fc1, self._fc2 = self._project(mlp.fc1, tokens), self._project(mlp.fc2, tokens)
        self._before_gelu: list[Operator] = []
        if isinstance(mlp, ConvMlp):
            if isinstance(mlp.relu, nn.ReLU):
                self._before_gelu.append(torch.relu_)
            hidden = tokens.new_empty(*tokens.shape[:2], mlp.fc1.out_features)
            self._before_gelu.append(self._convolution(mlp.dwconv.dwconv, hidden))

        self._parts = list(block.modules())[1:]
        self._states = [vars(part) for part in self._parts]
        states = (vars(block), *self._states)
        # Of parts and parameters; what has none computes the same with one.
        held = [state[kind] for kind in ("_modules", "_parameters") for state in states]
        self._held = [named for named in held if named]
        self._members = [*chain.from_iterable(map(dict.values, self._held))]
        self._seen = self._look()

    def fits(self, tokens: Tensor, hw: tuple[int, int]) -> bool:
        """Whether a call would compute what the block does now."""
        if self._situation != _situation(tokens, hw) or self._look() != self._seen:
            return False
        members = chain.from_iterable(map(dict.values, self._held))
        return all(map(is_, members, self._members))

    def _look(self) -> tuple[object, ...]:
        """Look at all that may change about the parts; each call does, so this has to be fast."""
        return (
            has_global_hooks(),
            any(map(any, map(_hooks_of, self._states))),
            [*map(type, self._parts)],
            [*map(len, self._states)],  # an attribute more may be another forward
            [*map(len, self._held)],
            [source.data_ptr() for source in self._sources],
            [source._version for source in self._sources],
            any(state["training"] for state in self._states),
            [conv.padding_mode for conv in self._convs],
            (self._attn.num_heads, self._attn.sr_ratio, self._act.approximate),
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Refine the ``(B, N, C)`` tokens."""
        x = self._norm1(tokens)
        q = self._q(x).view(self._heads).transpose(1, 2)  # (B, h, N, d)
        k, v = self._kv(self._reduce(x)).view(self._pairs).permute(2, 0, 3, 1, 4)  # (B, h, M, d)
        x = attend(q, k, v)
        del q, k, v
        tokens = add_branch(tokens, self._proj(x.transpose(1, 2).flatten(2)))
        x = self._fc1(self._norm2(tokens))  # (B, N, E)
        for operator in self._before_gelu:
            x = operator(x)
        return add_branch(tokens, self._fc2(torch.ops.aten.gelu_(x)))

    def _pack(self, layer: nn.Linear | nn.Conv2d, x: Tensor) -> Packed | None:
        packed = prepack(layer, x)
        if packed is not None:
            self._sources += [layer.weight, *([] if layer.bias is None else [layer.bias])]
        return packed

    def _project(self, layer: nn.Linear, tokens: Tensor) -> Operator:
        packed = self._pack(layer, tokens)
        if packed is None:
            return partial(linear, weight=layer.weight, bias=layer.bias)
        return packed.projection()

    def _convolution(self, layer: nn.Conv2d, tokens: Tensor) -> Operator:
        packed = self._pack(layer, tokens_to_map(tokens, self._hw))
        convolve = packed.convolution(layer) if packed else layer.forward
        shape = (tokens.shape[0], *self._hw, tokens.shape[2])
        self._convs.append(layer)
        # As tokens_to_map does, whose unflatten is PyTorch's in Python.
        return lambda tokens: map_to_tokens(convolve(tokens.view(shape).permute(0, 3, 1, 2)))

    def _reduction(self, attn: FastAttention, tokens: Tensor) -> tuple[Operator, Tensor]:
        """Choose how tokens are reduced; returns reduced ones of the right shape, too."""
        if isinstance(attn, LinearSpatialReductionAttention):
            return partial(attn.shrink, hw=self._hw), attn.shrink(tokens, self._hw)
        if attn.sr_ratio == 1:
            return lambda tokens: tokens, tokens
        convolve, norm = self._convolution(attn.sr, tokens), attn.norm.forward
        return lambda tokens: norm(convolve(tokens)), convolve(tokens)


# By block, as long as it lives: what was bound, or the situation in which it was called last.
_bound: MutableMapping[nn.Module, BoundBlock | Situation] = WeakKeyDictionary()


def find(block: FastBlock, tokens: Tensor, hw: tuple[int, int]) -> BoundBlock | None:
    """Get what :func:`bind` made of a block, if it still computes what the block does."""
    bound = _bound.get(block)
    return bound if isinstance(bound, BoundBlock) and bound.fits(tokens, hw) else None


def bind(block: FastBlock, tokens: Tensor, hw: tuple[int, int]) -> None:
    """Bind a block to its layers, if tokens came in this shape the last time as well.

    Args:
        block: In evaluation mode; all of its parts are the usual ones.
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens.
    """
    if not prepacked.has_operators() or any(part.training for part in block.modules()):
        return  # dropout and drop path are left to the modules
    situation = _situation(tokens, hw)
    again = _bound.get(block) == situation
    _bound[block] = BoundBlock(block, tokens, hw) if again else situation


def forget(model: nn.Module) -> None:
    """Drop what was bound of a model's blocks, and what was prepacked of its weights."""
    for module in model.modules():
        _bound.pop(module, None)
    prepacked.forget(model)


def add_branch(tokens: Tensor, branch: Tensor) -> Tensor:
    """Add a residual branch, in the branch's own memory, which nobody else has seen."""
    if branch.dtype != tokens.dtype:  # autocast keeps tokens in float32
        return tokens + branch
    return branch.add_(tokens)


def _situation(tokens: Tensor, hw: tuple[int, int]) -> Situation:
    """Name all that a block's work depends on besides its parts."""
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    onednn = torch._C._get_mkldnn_enabled()
    kind = (type(tokens), tokens.dtype, tokens.shape, hw)
    return *kind, autocast, onednn, torch.get_num_threads()
