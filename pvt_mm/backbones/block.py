"""One transformer block: norm-attention-residual, norm-MLP-residual."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Block", "DropPath"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, C channels.


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch for whole samples at random.

    Args:
        drop_path_rate: Probability in ``[0, 1)`` that a sample loses the branch; the kept ones
            are scaled by ``1 / (1 - drop_path_rate)``.

    Reference: Deep Networks with Stochastic Depth, arXiv:1603.09382.
    """

    def __init__(self, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x`` along its first dimension."""
        if not self.training or self.drop_path_rate == 0:
            return x
        samples = x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1))
        return x * F.dropout(samples, self.drop_path_rate)

    def extra_repr(self) -> str:
        """Show the rate in the module's ``repr``."""
        return f"drop_path_rate={self.drop_path_rate}"


class Block(nn.Module):
    """A transformer block: ``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``.

    Args:
        embed_dims: Token channels ``C``.
        attn: Attention, called with tokens and ``hw``.
        mlp: MLP, called with tokens and ``hw``.
        drop_path_rate: Probability that a sample skips a residual branch.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, mlp: nn.Module, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Refine the tokens of an ``hw`` map."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), hw))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens), hw))
