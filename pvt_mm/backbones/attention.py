"""Spatial-reduction attention (SRA) and linear SRA, the attention of PVT v1 and v2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.backbones.arguments import check_int, check_rate
from pvt_mm.registry import MODELS
from pvt_mm.tokens import map_to_tokens, tokens_to_map

__all__ = ["LinearSpatialReductionAttention", "SpatialReductionAttention"]

# Shape legend: B batch, N = H*W query tokens, M reduced tokens, C channels,
# h heads, d = C/h channels of a head.


@MODELS.register_module()
class SpatialReductionAttention(nn.Module):
    """Self-attention whose keys and values live on a smaller map than its queries.

    Args:
        embed_dims: Token channels ``C``; a multiple of ``num_heads``.
        num_heads: Number of heads, each ``C // num_heads`` channels wide.
        sr_ratio: Side ``R`` of the reduction window, in tokens (not pixels); 1 reduces nothing.
        qkv_bias: Whether the query, key and value projections have a bias.
        attn_drop_rate: Dropout probability of the attention weights.
        proj_drop_rate: Dropout probability of the output.

    Shape:
        tokens: ``(B, N, C)``, row-major: ``n = y * W + x``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``, before the residual is added.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range or ``C % num_heads != 0``, or, on call,
            ``H * W != N`` or a side of the map is smaller than ``sr_ratio``.

    Reference: PVT, section 3.3, arXiv:2102.12122.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_int("embed_dims", embed_dims, 1)
        check_int("num_heads", num_heads, 1)
        if embed_dims % num_heads:
            raise ValueError(
                f"embed_dims must be a multiple of num_heads, got embed_dims={embed_dims} and "
                f"num_heads={num_heads}"
            )
        self.num_heads = num_heads
        self.sr_ratio = check_int("sr_ratio", sr_ratio, 1)
        self.attn_drop_rate = check_rate("attn_drop_rate", attn_drop_rate)
        self.q = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(check_rate("proj_drop_rate", proj_drop_rate))
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(embed_dims)  # eps 1e-5, as released

    def reduce(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Shrink ``(B, N, C)`` tokens to the ``(B, M, C)`` that keys and values are made of."""
        if self.sr_ratio == 1:
            return tokens
        if min(hw) < self.sr_ratio:
            raise ValueError(
                f"a map of {hw[0]}x{hw[1]} tokens is smaller than the reduction window of "
                f"sr_ratio={self.sr_ratio}; give a larger map or a smaller sr_ratio"
            )
        return self.norm(map_to_tokens(self.sr(tokens_to_map(tokens, hw))))

    def queries(self, tokens: Tensor) -> Tensor:
        """Make the queries ``(B, h, N, d)`` of ``(B, N, C)`` tokens."""
        return self._split(self.q(tokens))

    def keys_and_values(self, tokens: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Make the keys and values of an ``hw`` map, ``(B, h, M, d)`` each."""
        k, v = self.kv(self.reduce(tokens, hw)).chunk(2, dim=2)  # (B, M, C) each
        return self._split(k), self._split(v)

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Attend from every token to the reduced tokens."""
        if hw[0] * hw[1] != tokens.shape[1]:
            raise ValueError(f"hw={tuple(hw)} does not match the {tokens.shape[1]} tokens given")
        q, (k, v) = self.queries(tokens), self.keys_and_values(tokens, hw)
        drop = self.attn_drop_rate if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)  # (B, h, N, d)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, n, C): (B, h, n, d)


@MODELS.register_module()
class LinearSpatialReductionAttention(SpatialReductionAttention):
    """SRA whose cost is linear in the number of tokens: keys and values on a fixed small map.

    Args:
        embed_dims: Token channels ``C``; a multiple of ``num_heads``.
        num_heads: Number of heads, each ``C // num_heads`` channels wide.
        pool_size: Side ``P`` of the pooled map, in tokens; ``M = P * P`` whatever the input.
        qkv_bias: Whether the query, key and value projections have a bias.
        attn_drop_rate: Dropout probability of the attention weights.
        proj_drop_rate: Dropout probability of the output.

    Shape:
        tokens: ``(B, N, C)``, row-major: ``n = y * W + x``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``, before the residual is added.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range or ``C % num_heads != 0``, or, on call,
            ``H * W != N``.

    Reference: PVT v2, section 3.4, arXiv:2106.13797.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        pool_size: int = 7,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dims,
            num_heads,
            qkv_bias=qkv_bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=proj_drop_rate,
        )
        self.pool_size = check_int("pool_size", pool_size, 1)
        self.pool = nn.AdaptiveAvgPool2d(pool_size)
        self.sr = nn.Conv2d(embed_dims, embed_dims, kernel_size=1)
        self.norm = nn.LayerNorm(embed_dims)  # eps 1e-5, as released
        self.act = nn.GELU()

    def reduce(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Pool ``(B, N, C)`` tokens to the ``(B, P*P, C)`` that keys and values are made of."""
        pooled = self.pool(tokens_to_map(tokens, hw))  # (B, C, P, P)
        return self.act(self.norm(map_to_tokens(self.sr(pooled))))
