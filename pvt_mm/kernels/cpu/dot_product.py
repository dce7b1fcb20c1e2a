"""Scaled dot-product attention, by the fastest kernels that PyTorch has for it.

Reference: FlashAttention, arXiv:2205.14135, for the order of the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pvt_mm.kernels.cpu.linear import linear, onednn_convolves, weight_gradient
from pvt_mm.kernels.cpu.processor import fused_attention_is_slow

__all__ = ["attend", "attend_in_tiles", "attention_weights"]

# Shape legend: B batch, h heads, d channels of a head, N queries, M keys; n queries of a tile.

# Scores, queries and result of a tile, which stay in the cache. Backward there are more of them.
TILE_BYTES = 6 * 2**20
BACKWARD_TILE_BYTES = 4 * 2**20
FEWEST_QUERIES = 512
FEWEST_SCORES = 2**18  # of a head; with fewer of either, calls cost more than tiles gain


def attend(q: Tensor, k: Tensor, v: Tensor, drop_rate: float = 0.0) -> Tensor:
    """Mix the values by how well their keys match the queries: ``softmax(q k^T / sqrt(d)) v``.

    Where PyTorch's own operator is slow, tiles of queries are computed one after the other, as
    products that oneDNN computes. The numbers are the same up to rounding, in bfloat16 that of the
    scores too, and the weights never exist whole in either case.

    Args:
        q: Queries ``(B, h, N, d)``.
        k: Keys ``(B, h, M, d)``.
        v: Values ``(B, h, M, d)``.
        drop_rate: Dropout probability of the weights.

    Returns:
        ``(B, h, N, d)``.
    """
    if drop_rate > 0 or not _tiles(q, k):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate)
    if torch.is_grad_enabled():
        return _Attend.apply(q, k, v)  # type: ignore[no-untyped-call]  # torch's
    return attend_in_tiles(q, k, v)


def _tiles(q: Tensor, k: Tensor) -> bool:
    queries, keys = q.shape[2], k.shape[2]
    if queries < FEWEST_QUERIES or queries * keys < FEWEST_SCORES:
        return False
    # Whoever subclasses tensors expects one operator.
    return type(q) is Tensor and onednn_convolves(q) and fused_attention_is_slow(q.dtype)


def _spans(q: Tensor, k: Tensor, tile_bytes: int) -> Iterator[slice]:
    """Cut the queries into tiles of about the same size."""
    queries, keys, channels = q.shape[2], k.shape[2], q.shape[3]
    count = -(-queries * (keys + 2 * channels) * q.element_size() // tile_bytes)
    size = -(-queries // count)
    return (slice(start, start + size) for start in range(0, queries, size))


def attention_weights(q: Tensor, scaled_k: Tensor) -> Tensor:
    """Make the ``(1, n, M)`` attention weights of a tile of queries ``(1, n, d)``."""
    scores = linear(q, scaled_k)
    return torch.softmax(scores, dim=-1, out=scores)


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with one tile of attention weights at a time; shapes as for :func:`attend`."""
    batch, heads, queries, channels = q.shape
    out = q.new_empty(batch, queries, heads, channels).transpose(1, 2)  # heads side by side
    for head in ((b, h) for b in range(batch) for h in range(heads)):
        scaled_k, transposed_v = k[head] * channels**-0.5, v[head].t().contiguous()
        for span in _spans(q, k, TILE_BYTES):
            out[head][span] = linear(
                attention_weights(q[head][None, span], scaled_k), transposed_v
            )[0]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return attend_in_tiles(q, k, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        # As the tensors are themselves, heads side by side. Many tiles add to the latter two.
        grad_q = torch.empty_like(q.transpose(1, 2)).transpose(1, 2)
        grad_k, grad_v = (
            torch.zeros_like(x.transpose(1, 2), dtype=torch.float32).transpose(1, 2) for x in (k, v)
        )
        scale = q.shape[3] ** -0.5
        for head in ((b, h) for b in range(q.shape[0]) for h in range(q.shape[1])):
            scaled_k = k[head] * scale
            transposed_k, head_v = scaled_k.t().contiguous(), v[head].contiguous()
            for span in _spans(q, k, BACKWARD_TILE_BYTES):
                queries, grad = q[head][None, span], grad_out[head][None, span]
                weights = attention_weights(queries, scaled_k)  # (1, n, M), as in the forward pass
                grad_v[head] += weight_gradient(grad, weights).t()
                grad_scores = torch._softmax_backward_data(
                    linear(grad, head_v), weights, -1, q.dtype
                )
                grad_q[head][span] = linear(grad_scores, transposed_k)[0]
                grad_k[head] += weight_gradient(grad_scores, queries)
                del weights, grad_scores  # before the next tile needs memory
            grad_k[head] *= scale
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)
