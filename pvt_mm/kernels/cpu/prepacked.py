"""Weights in the order in which oneDNN reads them, put into it once instead of in each call.

For few tokens, as of a small image, sorting a weight takes as long as multiplying by it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pvt_mm.devices import has_bfloat16
from pvt_mm.kernels.recording import is_recording

__all__ = ["Packed", "forget", "has_operators", "prepack"]

# With more, sorting takes a few percent of the product's time, which is worth the memory of small
# weights only: those of linear layers with 128 to 1024 channels and less.
MOST_TOKENS = 1024
SMALL_WEIGHT = 2**17  # numbers

TYPES = {torch.float32, torch.bfloat16}

Layer = nn.Linear | nn.Conv2d


class Packed(NamedTuple):
    """A layer's weight as oneDNN reads it."""

    owner: weakref.ref[Tensor]  # the weight
    values: tuple[object, ...]  # which ones of the parameters these are
    sources: list[Tensor]  # the parameters' memory, which nothing else gets as long as it is held
    dtype: torch.dtype
    weight: Tensor  # opaque
    bias: Tensor | None

    def holds(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether these are the values that the parameters have now."""
        return self.owner() is weight and self.values == _values_of(weight, bias)

    def project(self, tokens: Tensor) -> Tensor:
        """Compute ``layer(tokens)``; tokens of ``(B, N, C)``."""
        return self.projection()(tokens)

    def convolve(self, layer: nn.Conv2d, maps: Tensor) -> Tensor:
        """Compute ``layer(maps)``; maps of ``(B, C, H, W)``, the result is channels-last."""
        return self.convolution(layer)(maps)

    def projection(self) -> Callable[[Tensor], Tensor]:
        """Make the function of :meth:`project`, for many calls."""
        pointwise, weight, bias = torch.ops.mkldnn._linear_pointwise.default, self.weight, self.bias
        dtype = self.dtype

        def project(tokens: Tensor) -> Tensor:
            if tokens.dtype is not dtype:
                tokens = tokens.to(dtype)
            return pointwise(tokens, weight, bias, "none", [], "")

        return project

    def convolution(self, layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
        """Make the function of :meth:`convolve`, for many calls."""
        pointwise = torch.ops.mkldnn._convolution_pointwise.default
        weight, bias, dtype = self.weight, self.bias, self.dtype

        def convolve(maps: Tensor) -> Tensor:
            if maps.dtype is not dtype:
                maps = maps.to(dtype)
            maps = maps.contiguous(memory_format=torch.channels_last)
            return pointwise(maps, weight, bias, *_form_of(layer), "none", [], "")

        return convolve


# By the weight's id, as long as it lives. Copies and pickles of a model have none.
_packed: dict[int, Packed] = {}


def prepack(layer: Layer, x: Tensor) -> Packed | None:
    """Get a layer's prepacked weight if its product with ``x`` may use one, and gains by it.

    It is made by the first call and whenever the layer's parameters are others. The look whether
    they are is a part of each small product's time: it takes microseconds.

    Args:
        layer: The layer.
        x: Tokens ``(B, N, C)`` or a map ``(B, C, H, W)``.

    Returns:
        The weight, or None if the layer has to be called.
    """
    if torch.is_grad_enabled() or is_recording() or type(x) is not Tensor or not x.is_cpu:
        return None
    weight, bias = layer.weight, layer.bias
    if _tokens_made(layer, x) > MOST_TOKENS and not _is_small(layer, weight):
        return None
    if not (has_operators() and torch._C._get_mkldnn_enabled()):
        return None
    if weight.is_inference() or (bias is not None and bias.is_inference()):
        return None  # nobody counts their changes
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    # Other types are errors, or stay what they are under autocast: the layer's own call knows.
    if x.dtype not in TYPES or dtype not in TYPES or not (autocast or weight.dtype is dtype):
        return None
    packed = _packed.get(id(weight))
    if packed is not None and packed.dtype is dtype and packed.holds(weight, bias):
        return packed
    types = {weight.dtype, weight.dtype if bias is None else bias.dtype}
    if not types <= TYPES or (len(types) > 1 and not autocast):
        return None
    if dtype == torch.float32 or has_bfloat16("cpu"):
        return _pack(layer, x, dtype)
    return None


def forget(model: nn.Module) -> None:
    """Drop what was prepacked of a model's weights."""
    for weight in model.parameters():
        _packed.pop(id(weight), None)


def _tokens_made(layer: Layer, x: Tensor) -> int:
    """Count the tokens of an image that come out."""
    if isinstance(layer, nn.Linear):
        return x.shape[1]
    return x.shape[2] * x.shape[3] // (layer.stride[0] * layer.stride[1])


def _is_small(layer: Layer, weight: Tensor) -> bool:
    return isinstance(layer, nn.Linear) and weight.numel() <= SMALL_WEIGHT


@cache
def has_operators() -> bool:
    """Whether this PyTorch can prepack weights, and tell what autocast computes in."""
    if not torch.backends.mkldnn.is_available():
        return False
    has_autocast = hasattr(torch, "get_autocast_dtype")  # since torch 2.4
    return has_autocast and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _values_of(weight: Tensor, bias: Tensor | None) -> tuple[object, ...]:
    """Tell which values parameters hold: assignments and optimizers' steps change it."""
    values = (weight.data_ptr(), weight.dtype, weight._version)
    return values if bias is None else (*values, bias.data_ptr(), bias.dtype, bias._version)


def _form_of(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.padding, layer.stride, layer.dilation, layer.groups


def _pack(layer: Layer, x: Tensor, dtype: torch.dtype) -> Packed:
    weight = layer.weight.detach().to(dtype)
    if isinstance(layer, nn.Linear):
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)
    else:
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        weight = reorder(weight, *_form_of(layer), x.shape)
    sources = [layer.weight.detach()]
    bias = None
    if layer.bias is not None:
        sources.append(layer.bias.detach())
        bias = sources[1].to(dtype)
    key = id(layer.weight)
    owner = weakref.ref(layer.weight, lambda _: _packed.pop(key, None))
    values = _values_of(layer.weight, layer.bias)
    packed = _packed[key] = Packed(owner, values, sources, dtype, weight, bias)
    return packed
