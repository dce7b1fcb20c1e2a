"""Modules that take another's place before an export, and compute the same numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.backbones import LinearSpatialReductionAttention, SpatialReductionAttention
from pvt_mm.backbones.block import Block
from pvt_mm.backbones.mlp import ConvMlp
from pvt_mm.tokens import map_to_tokens, tokens_to_map

__all__ = [
    "AttentionInOne",
    "Enlarge",
    "MapMlp",
    "MatrixPool",
    "attend_in_one",
    "convolve_maps",
    "enlarge_by_integers",
    "pool_by_products",
]

# Shape legend: B batch, C channels, (H, W) map in tokens, N = H*W tokens, P side of a pooled map.


class MatrixPool(nn.Module):
    """Adaptive average pooling as two matrix products.

    ONNX has no adaptive pooling, and no window of fixed size does the same for sides that ``P``
    does not divide. As products with matrices that are computed from the size, it works for every
    size, also for one smaller than ``P``.

    Args:
        size: Side ``P`` of the map that comes out.

    Shape:
        x: ``(B, C, H, W)``.
        returns: ``(B, C, P, P)``.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Average the columns of each window, then the rows."""
        columns, rows = self._weights(x.shape[3], x), self._weights(x.shape[2], x)
        x = columns @ x.permute(0, 2, 3, 1)  # (P, W) @ (B, H, W, C)
        x = rows @ x.flatten(2)  # (P, H) @ (B, H, P * C)
        return x.unflatten(2, (self.size, -1)).permute(0, 3, 1, 2)

    def _weights(self, length: int, like: Tensor) -> Tensor:
        """``(P, length)``: in row ``i``, equal weights from i*length//P to ceil((i+1)*length/P)."""
        window = torch.arange(self.size, device=like.device)[:, None]
        place = torch.arange(length, device=like.device)
        first = window * length // self.size
        last = ((window + 1) * length + self.size - 1) // self.size
        inside = (place >= first) & (place < last)
        return inside.to(like.dtype) / (last - first).to(like.dtype)


class AttentionInOne(nn.Module):
    """A :class:`~pvt_mm.backbones.SpatialReductionAttention` around ONNX Runtime's own operator.

    It takes tokens, not heads, so that nothing is transposed on the way, and never holds the
    attention weights. For ``torch.onnx.export`` only: PyTorch itself cannot compute it.

    Args:
        attn: Gives its parameters and its reduction of the tokens.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens.
        returns: ``(B, N, C)``.
    """

    def __init__(self, attn: SpatialReductionAttention) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Attend from every token of an ``hw`` map to the reduced tokens."""
        q = self.attn.q(tokens)
        k, v = self.attn.kv(self.attn.reduce(tokens, hw)).chunk(2, dim=2)  # (B, M, C) each
        out = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (q, k, v),
            {"num_heads": self.attn.num_heads},
            dtype=q.dtype,
            shape=q.shape,
            version=1,
        )
        return self.attn.proj(out)


class MapMlp(nn.Module):
    """A :class:`~pvt_mm.backbones.mlp.ConvMlp` whose linear layers are 1x1 convolutions.

    ONNX Runtime keeps maps between convolutions in blocks of channels. Among linear layers it
    would reorder the hidden tokens, which are 4 to 8 times as wide as the tokens, before and after
    the depth-wise convolution; here only the narrow tokens are reordered.

    Args:
        mlp: Gives its parameters.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens.
        returns: ``(B, N, C)``.
    """

    def __init__(self, mlp: ConvMlp) -> None:
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = mlp.fc1, mlp.dwconv.dwconv, mlp.fc2
        self.relu = mlp.relu

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Mix the tokens of an ``hw`` map."""
        x = tokens_to_map(tokens, hw)  # (B, C, H, W)
        x = F.conv2d(x, self.fc1.weight[:, :, None, None], self.fc1.bias)
        x = F.gelu(self.dwconv(self.relu(x)))
        return map_to_tokens(F.conv2d(x, self.fc2.weight[:, :, None, None], self.fc2.bias))


class Enlarge(nn.Module):
    """Resizing by a whole factor, whose size is computed in integers.

    MMSegmentation's ``Upsample`` goes by way of floating point, which fixes the size recorded.

    Args:
        factor: How many times as high and wide.
        mode: As in ``F.interpolate``.
        align_corners: As in ``F.interpolate``.

    Shape:
        x: ``(B, C, H, W)``.
        returns: ``(B, C, factor * H, factor * W)``.
    """

    def __init__(self, factor: int, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a map."""
        size = (self.factor * x.shape[2], self.factor * x.shape[3])
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def enlarge_by_integers(model: nn.Module) -> None:
    """Put :class:`Enlarge` in the place of every ``Upsample`` by a whole factor in ``model``."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            factor = getattr(child, "scale_factor", None)
            if type(child).__name__ == "Upsample" and factor and float(factor).is_integer():
                setattr(parent, name, Enlarge(int(factor), child.mode, child.align_corners))


def pool_by_products(model: nn.Module) -> None:
    """Give every linear SRA in ``model`` a :class:`MatrixPool`."""
    for module in model.modules():
        if isinstance(module, LinearSpatialReductionAttention):
            module.pool = MatrixPool(module.pool_size)


def attend_in_one(model: nn.Module) -> None:
    """Give every block in ``model`` that has an SRA an :class:`AttentionInOne`."""
    for module in model.modules():
        if isinstance(module, Block) and isinstance(module.attn, SpatialReductionAttention):
            module.attn = AttentionInOne(module.attn)


def convolve_maps(model: nn.Module) -> None:
    """Give every block in ``model`` that has a :class:`ConvMlp` a :class:`MapMlp`."""
    for module in model.modules():
        if isinstance(module, Block) and isinstance(module.mlp, ConvMlp):
            module.mlp = MapMlp(module.mlp)
