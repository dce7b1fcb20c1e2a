"""One transformer block: norm-attention-residual, norm-MLP-residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.backbones.attention import SpatialReductionAttention
from pvt_mm.backbones.embed import map_to_tokens, tokens_to_map
from pvt_mm.kernels import gpu as kernels
from pvt_mm.kernels.cpu.bands import Band, map_in_bands, wants_bands
from pvt_mm.kernels.cpu.linear import TokenLinear
from pvt_mm.kernels.cpu.recompute import mlp_in_bands

__all__ = ["Block", "ConvMlp", "DropPath", "Mlp"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, C channels, E hidden channels.


QUERY_MAPS = 2  # as wide as the tokens: the queries, and what attention makes of them


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
        keep = 1 - self.drop_path_rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        """Show the rate in the module's ``repr``."""
        return f"drop_path_rate={self.drop_path_rate}"


class Mlp(nn.Module):
    """The MLP of PVT v1: two linear layers around a GELU.

    On CPUs the hidden tokens of a large map are made band by band: see
    :mod:`pvt_mm.kernels.cpu.bands`.

    Args:
        embed_dims: Token channels ``C``.
        hidden_dims: Hidden channels ``E``.
        drop_rate: Dropout probability after each of the two.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``, before the residual is added.
    """

    halo = 0  # rows above and below a token that its result depends on

    def __init__(self, embed_dims: int, hidden_dims: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = TokenLinear(embed_dims, hidden_dims)
        self.fc2 = TokenLinear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Mix the channels of each token of an ``hw`` map."""
        hidden_dims = self.fc1.out_features
        if not wants_bands(tokens, hidden_dims):
            return self.mix(tokens, Band.whole(hw))
        if not torch.is_grad_enabled():
            return map_in_bands(self.mix, tokens, hw, hidden_dims, self.halo)
        if self.training and self.drop.p > 0:
            return self.mix(tokens, Band.whole(hw))  # dropout must not be drawn anew
        fc1, fc2 = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
        params = self._activation_params()
        return mlp_in_bands(tokens, fc1, self._activate, fc2, hw, params, self.halo)

    def mix(self, tokens: Tensor, band: Band) -> Tensor:
        """Mix the channels of the ``(B, n, C)`` tokens that a band reads, for those it makes."""
        hidden = self.fc1(tokens)  # (B, N, E)
        in_place = not torch.is_grad_enabled()
        hidden = self._activate(hidden, band, *self._activation_params(), in_place=in_place)
        return self.drop(self.fc2(self.drop(hidden)))

    def _activation_params(self) -> tuple[Tensor, ...]:
        return ()

    def _activate(self, hidden: Tensor, band: Band, *, in_place: bool = False) -> Tensor:
        return torch.ops.aten.gelu_(hidden) if in_place else F.gelu(hidden)


class DepthwiseConv(nn.Module):
    """Holds a 3x3 depth-wise convolution, under the name that it has in the releases.

    Args:
        channels: Channels ``E``, each convolved by itself.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


class ConvMlp(Mlp):
    """The MLP of PVT v2: a 3x3 depth-wise convolution between the first layer and the GELU.

    Its zero padding tells the tokens where they are, so v2 needs no position embedding.

    Args:
        embed_dims: Token channels ``C``.
        hidden_dims: Hidden channels ``E``.
        drop_rate: Dropout probability after the GELU and at the end.
        relu: Whether a ReLU follows the first layer, as in the models with linear SRA.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``, before the residual is added.

    Reference: PVT v2, section 3.3, arXiv:2106.13797.
    """

    halo = 1

    def __init__(
        self, embed_dims: int, hidden_dims: int, drop_rate: float = 0.0, relu: bool = False
    ) -> None:
        super().__init__(embed_dims, hidden_dims, drop_rate)
        self.dwconv = DepthwiseConv(hidden_dims)
        self.relu = relu

    def _activation_params(self) -> tuple[Tensor, ...]:
        return self.dwconv.dwconv.weight, self.dwconv.dwconv.bias

    def _activate(
        self, hidden: Tensor, band: Band, weight: Tensor, bias: Tensor, *, in_place: bool = False
    ) -> Tensor:
        if self.relu:
            hidden = F.relu(hidden, inplace=in_place)
        if kernels.is_available(hidden):
            return kernels.dwconv_gelu(hidden, weight, bias, band.hw)
        maps = tokens_to_map(hidden, band.hw)
        maps = F.conv2d(maps, weight, bias, padding=1, groups=weight.shape[0])
        # Beyond a band the convolution saw zeros instead of rows, which spoils the halo only.
        hidden = band.without_halo(map_to_tokens(maps))
        return F.gelu(hidden) if torch.is_grad_enabled() else torch.ops.aten.gelu_(hidden)


class Block(nn.Module):
    """A transformer block: ``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``.

    On CPUs, where no gradient is wanted, a large map goes through both band by band: see
    :mod:`pvt_mm.kernels.cpu.bands`. Keys and values are made of the whole map before.

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
        if self._works_in_bands(tokens):
            return self._refine_in_bands(tokens, hw)
        tokens = _add(tokens, self.drop_path(self.attn(self.norm1(tokens), hw)))
        return _add(tokens, self.drop_path(self.mlp(self.norm2(tokens), hw)))

    def _works_in_bands(self, tokens: Tensor) -> bool:
        """Whether nothing but the tokens that come in and those that go out has to exist whole."""
        if torch.is_grad_enabled() or self.training:
            return False  # drop path takes whole samples
        known = isinstance(self.attn, SpatialReductionAttention) and isinstance(self.mlp, Mlp)
        if not known or not wants_bands(tokens, QUERY_MAPS * tokens.shape[2]):
            return False
        # Who hooks a part of the block, to look at maps or to fetch parameters, expects one call.
        parts = (part for part in self.modules() if part is not self)
        return not any(part._forward_hooks or part._forward_pre_hooks for part in parts)

    def _refine_in_bands(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        k, v = self.attn.keys_and_values(self.norm1(tokens), hw)

        def attend(tokens: Tensor, band: Band) -> Tensor:
            image = slice(band.image, band.image + 1)
            return _add(tokens, self.attn.mix(self.norm1(tokens), k[image], v[image]))

        def mix(tokens: Tensor, band: Band) -> Tensor:
            return _add(band.without_halo(tokens), self.mlp.mix(self.norm2(tokens), band))

        tokens = map_in_bands(attend, tokens, hw, QUERY_MAPS * tokens.shape[2])
        return map_in_bands(mix, tokens, hw, self.mlp.fc1.out_features, self.mlp.halo)


def _add(tokens: Tensor, branch: Tensor) -> Tensor:
    """Add a residual branch; without a gradient into the branch's own memory."""
    if torch.is_grad_enabled() or branch.dtype != tokens.dtype:  # autocast keeps tokens in float32
        return tokens + branch
    return branch.add_(tokens)
