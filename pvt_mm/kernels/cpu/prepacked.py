"""Weights in the order in which oneDNN reads them, put into it once instead of in each call.

For few tokens, as of a small image, sorting a weight takes as long as multiplying by it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pvt_mm.devices import has_bfloat16
from pvt_mm.kernels.recording import is_recording

__all__ = ["can_prepack", "convolve_prepacked", "forget", "project_prepacked"]

# With more, sorting takes a few percent of the product's time, which is worth the memory of small
# weights only: those of linear layers with 128 to 1024 channels and less.
MOST_TOKENS = 1024
SMALL_WEIGHT = 2**17  # numbers


class _Packed(NamedTuple):
    of: tuple[object, ...]  # which values of the parameters these are
    sources: list[Tensor]  # the parameters' memory, which nothing else gets as long as it is held
    weight: Tensor  # opaque
    bias: Tensor | None


# As long as their parameter lives. Copies and pickles of a model have none.
_packed: MutableMapping[Tensor, _Packed] = WeakIdKeyDictionary()


def can_prepack(layer: nn.Linear | nn.Conv2d, x: Tensor, tokens: int) -> bool:
    """Whether a layer's product with ``x`` may use prepacked weights, and gains by it.

    Args:
        layer: The layer.
        x: Tokens ``(B, N, C)`` or a map ``(B, C, H, W)``.
        tokens: How many tokens of an image come out.
    """
    if torch.is_grad_enabled() or is_recording() or type(x) is not Tensor or not x.is_cpu:
        return False
    small = isinstance(layer, nn.Linear) and layer.weight.numel() <= SMALL_WEIGHT
    if not (small or tokens <= MOST_TOKENS):
        return False
    if not (_has_operators() and torch._C._get_mkldnn_enabled()):
        return False
    parameters = _parameters(layer)
    if any(one.is_inference() for one in parameters):  # nobody counts their changes
        return False
    # Other types are errors, or stay what they are under autocast: the layer's own call knows.
    types = {x.dtype, *(one.dtype for one in parameters)}
    if not types <= {torch.float32, torch.bfloat16}:
        return False
    if len(types) > 1 and not torch.is_autocast_enabled("cpu"):
        return False
    dtype = _computed_in(x)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16("cpu"))


def project_prepacked(layer: nn.Linear, tokens: Tensor) -> Tensor:
    """Compute ``layer(tokens)``; tokens of ``(B, N, C)``."""
    dtype = _computed_in(tokens)
    packed = _get(layer, dtype)
    if packed is None:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype))
        packed = _keep(layer, dtype, weight)
    pointwise = torch.ops.mkldnn._linear_pointwise
    return pointwise(tokens.to(dtype), packed.weight, packed.bias, "none", [], "")


def convolve_prepacked(layer: nn.Conv2d, maps: Tensor) -> Tensor:
    """Compute ``layer(maps)``; maps of ``(B, C, H, W)``, the result has channels-last strides."""
    dtype = _computed_in(maps)
    maps = maps.to(dtype).contiguous(memory_format=torch.channels_last)
    form = (layer.padding, layer.stride, layer.dilation, layer.groups)
    packed = _get(layer, dtype)
    if packed is None:
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        packed = _keep(layer, dtype, reorder(layer.weight.detach().to(dtype), *form, maps.shape))
    pointwise = torch.ops.mkldnn._convolution_pointwise
    return pointwise(maps, packed.weight, packed.bias, *form, "none", [], "")


def forget(model: nn.Module) -> None:
    """Drop what was prepacked of a model's weights."""
    for weight in model.parameters():
        _packed.pop(weight, None)


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


@cache
def _has_operators() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    has_autocast = hasattr(torch, "get_autocast_dtype")  # since torch 2.4
    return has_autocast and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _parameters(layer: nn.Linear | nn.Conv2d) -> list[Tensor]:
    return [layer.weight] if layer.bias is None else [layer.weight, layer.bias]


def _values_of(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> tuple[object, ...]:
    """Tell which values the parameters hold: assignments and optimizers' steps change it."""
    return dtype, *((one.data_ptr(), one.dtype, one._version) for one in _parameters(layer))


def _get(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> _Packed | None:
    packed = _packed.get(layer.weight)
    return packed if packed is not None and packed.of == _values_of(layer, dtype) else None


def _keep(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype, weight: Tensor) -> _Packed:
    sources = [one.detach() for one in _parameters(layer)]
    bias = None if layer.bias is None else sources[1].to(dtype)
    packed = _Packed(_values_of(layer, dtype), sources, weight, bias)
    _packed[layer.weight] = packed
    return packed
