"""The fast twins of the backbones' modules: the same parameters, names and results.

On CPUs a large map goes through a block band by band (:mod:`pvt_mm.kernels.cpu.bands`), and tall
products are oneDNN's (:mod:`pvt_mm.kernels.cpu.linear`); in training the MLP's activations are
computed anew in the backward pass (:mod:`pvt_mm.kernels.cpu.recompute`); for inference weights may
be sorted once for all calls (:mod:`pvt_mm.kernels.cpu.prepacked`). On GPUs the depth-wise
convolution and the GELU are one kernel (:mod:`pvt_mm.kernels.gpu`). What each gains and costs:
docs/kernels.md.

A twin computes past its parts, so that hooks on these would not fire. As soon as somebody hooks,
wraps or replaces a part, and in recorded graphs, it computes as the plain module does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvt_mm.backbones.attention import LinearSpatialReductionAttention, SpatialReductionAttention
from pvt_mm.backbones.block import Block, DropPath
from pvt_mm.backbones.embed import PatchEmbed
from pvt_mm.backbones.mlp import ConvMlp, DepthwiseConv, Mlp
from pvt_mm.kernels import gpu
from pvt_mm.kernels.cpu.bands import Band, map_in_bands, wants_bands
from pvt_mm.kernels.cpu.bound import add_branch, bind, find
from pvt_mm.kernels.cpu.dot_product import attend
from pvt_mm.kernels.cpu.linear import linear
from pvt_mm.kernels.cpu.prepacked import prepack
from pvt_mm.kernels.cpu.recompute import linear_of_gelu, mlp_in_bands
from pvt_mm.kernels.parts import obstacle
from pvt_mm.kernels.recording import is_recording
from pvt_mm.tokens import map_to_tokens, tokens_to_map

__all__ = [
    "PREPACKED_TWINS",
    "TWINS",
    "FastAttention",
    "FastBlock",
    "FastConvMlp",
    "FastLinearAttention",
    "FastMlp",
    "FastPatchEmbed",
    "Products",
]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, M reduced tokens, C channels,
# E hidden channels, h heads, d = C/h channels of a head; n tokens that a band reads.

QUERY_MAPS = 2  # as wide as the tokens: the queries, and what attention makes of them


class Products(nn.Module):
    """The products of a fast module, on CPUs without a gradient with prepacked weights if asked."""

    prepack = False

    def project(self, layer: nn.Linear, tokens: Tensor) -> Tensor:
        """Compute ``layer(tokens)``; tokens of ``(B, N, C)``."""
        packed = prepack(layer, tokens) if self.prepack else None
        if packed is None:
            return linear(tokens, layer.weight, layer.bias)
        return packed.project(tokens)

    def convolve(self, layer: nn.Conv2d, maps: Tensor) -> Tensor:
        """Compute ``layer(maps)``; maps of ``(B, C, H, W)``."""
        packed = prepack(layer, maps) if self.prepack else None
        return layer(maps) if packed is None else packed.convolve(layer, maps)


class FastPatchEmbed(Products, PatchEmbed):
    """:class:`~pvt_mm.backbones.embed.PatchEmbed`, its convolution prepacked if asked."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed the patches of ``x``."""
        if not self.prepack or is_recording() or obstacle(self):
            return super().forward(x)
        x = self.convolve(self.proj, x)
        return self.norm(map_to_tokens(x)), (x.shape[2], x.shape[3])


class FastMlp(Products, Mlp):
    """:class:`~pvt_mm.backbones.mlp.Mlp`, whose hidden tokens of a large map exist in bands.

    With ``recompute`` also in training on CPUs, where they are activated anew in the backward pass.
    """

    halo = 0  # rows above and below a token that its result depends on
    recompute = False

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Mix the channels of each token of an ``hw`` map."""
        if is_recording() or obstacle(self, (DepthwiseConv,)):
            return super().forward(tokens, hw)
        hidden_dims = self.fc1.out_features
        if not wants_bands(tokens, hidden_dims):
            return self.mix(tokens, Band.whole(hw))
        if not torch.is_grad_enabled():
            return map_in_bands(self.mix, tokens, hw, hidden_dims, self.halo)
        if not self.recompute or self._drops():
            return self.mix(tokens, Band.whole(hw))  # dropout must not be drawn anew
        fc1, fc2 = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
        params = self._activation_params()
        return mlp_in_bands(tokens, fc1, self._activate, fc2, hw, params, self.halo)

    def mix(self, tokens: Tensor, band: Band) -> Tensor:
        """Mix the channels of the ``(B, n, C)`` tokens that a band reads, for those it makes."""
        hidden, params = self.project(self.fc1, tokens), self._activation_params()  # (B, n, E)
        in_place, drops = not torch.is_grad_enabled(), self._drops()
        if not (in_place or drops) and hidden.is_cpu:
            hidden = self._before_gelu(hidden, band, *params)
            return linear_of_gelu(hidden, (self.fc2.weight, self.fc2.bias))
        hidden = self._activate(hidden, band, *params, in_place=in_place)
        if not drops:
            return self.project(self.fc2, hidden)
        return self.drop(self.project(self.fc2, self.drop(hidden)))

    def _drops(self) -> bool:
        return self.drop.training and getattr(self.drop, "p", 0.0) > 0

    def _activation_params(self) -> tuple[Tensor, ...]:
        return ()

    def _activate(
        self, hidden: Tensor, band: Band, *params: Tensor, in_place: bool = False
    ) -> Tensor:
        made = self._before_gelu(hidden, band, *params, in_place=in_place)
        in_place = in_place or (made is not hidden and not torch.is_grad_enabled())
        return torch.ops.aten.gelu_(made) if in_place else F.gelu(made)

    def _before_gelu(
        self, hidden: Tensor, band: Band, *params: Tensor, in_place: bool = False
    ) -> Tensor:
        """Make of hidden tokens, ``(B, n, E)``, what the GELU is given, ``(B, m, E)``."""
        return hidden


class FastConvMlp(FastMlp, ConvMlp):
    """:class:`~pvt_mm.backbones.mlp.ConvMlp` in bands on CPUs, with one kernel less on GPUs."""

    halo = 1

    def _activation_params(self) -> tuple[Tensor, ...]:
        conv = self.dwconv.dwconv
        assert conv.bias is not None  # as built
        return conv.weight, conv.bias

    def _activate(
        self, hidden: Tensor, band: Band, *params: Tensor, in_place: bool = False
    ) -> Tensor:
        if not gpu.is_available(hidden):
            return super()._activate(hidden, band, *params, in_place=in_place)
        weight, bias = params
        return gpu.dwconv_gelu(self._rectify(hidden, in_place), weight, bias, band.hw)

    def _before_gelu(
        self, hidden: Tensor, band: Band, *params: Tensor, in_place: bool = False
    ) -> Tensor:
        weight, bias = params
        maps = tokens_to_map(self._rectify(hidden, in_place), band.hw)
        if in_place:
            maps = self.convolve(self.dwconv.dwconv, maps)
        else:
            maps = F.conv2d(maps, weight, bias, padding=1, groups=weight.shape[0])
        # Beyond a band the convolution saw zeros instead of rows, which spoils the halo only.
        return band.without_halo(map_to_tokens(maps))

    def _rectify(self, hidden: Tensor, in_place: bool) -> Tensor:
        return F.relu(hidden, inplace=in_place) if isinstance(self.relu, nn.ReLU) else hidden


class FastAttention(Products, SpatialReductionAttention):
    """:class:`~pvt_mm.backbones.SpatialReductionAttention` on the fastest products of the CPU."""

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Attend from every token to the reduced tokens."""
        if is_recording() or obstacle(self):
            return super().forward(tokens, hw)
        return self.mix(tokens, *self.make_keys_and_values(tokens, hw))

    def make_keys_and_values(self, tokens: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Do what ``keys_and_values`` does, past the parts that it calls."""
        if hw[0] * hw[1] != tokens.shape[1]:
            raise ValueError(f"hw={tuple(hw)} does not match the {tokens.shape[1]} tokens given")
        k, v = self.project(self.kv, self.shrink(tokens, hw)).chunk(2, dim=2)  # (B, M, C) each
        return self._split(k), self._split(v)

    def shrink(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Do what ``reduce`` does, past the parts that it calls."""
        if self.sr_ratio == 1 or min(hw) < self.sr_ratio:
            return self.reduce(tokens, hw)
        return self.norm(map_to_tokens(self.convolve(self.sr, tokens_to_map(tokens, hw))))

    def mix(self, tokens: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``(B, n, C)`` tokens, all of a map or some, to keys and values."""
        drop = self.attn_drop_rate if self.training else 0.0
        # Without a name for them, the queries are gone before the projection needs memory.
        out = attend(self._split(self.project(self.q, tokens)), k, v, drop)  # (B, h, n, d)
        out = self.project(self.proj, out.transpose(1, 2).flatten(2))
        return self.proj_drop(out) if self.proj_drop.training else out


class FastLinearAttention(FastAttention, LinearSpatialReductionAttention):
    """:class:`~pvt_mm.backbones.LinearSpatialReductionAttention`, likewise."""

    def shrink(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Do what ``reduce`` does, past the parts that it calls."""
        pooled = self.pool(tokens_to_map(tokens, hw))  # (B, C, P, P)
        return self.act(self.norm(map_to_tokens(self.convolve(self.sr, pooled))))


class FastBlock(Block):
    """:class:`~pvt_mm.backbones.block.Block` that without a gradient, on CPUs, is one call.

    It asks once whether all its parts are the usual ones, and takes large maps through both
    branches in bands; keys and values are made of the whole map before.
    """

    attn: FastAttention
    mlp: FastMlp

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Refine the tokens of an ``hw`` map."""
        if torch.is_grad_enabled() or not tokens.is_cpu or is_recording():
            return super().forward(tokens, hw)
        bound = find(self, tokens, hw)
        if bound is not None:
            return bound(tokens)
        if not self._is_one_call():
            return super().forward(tokens, hw)
        attn, mlp, norm1, norm2 = self.attn, self.mlp, self.norm1, self.norm2
        query_dims, hidden_dims = QUERY_MAPS * tokens.shape[2], mlp.fc1.out_features
        normed = norm1(tokens)
        k, v = attn.make_keys_and_values(normed, hw)
        if attn.prepack and not wants_bands(tokens, hidden_dims):
            bind(self, tokens, hw)  # for the calls to come

        def attend_band(tokens: Tensor, band: Band) -> Tensor:
            image = slice(band.image, band.image + 1)
            return add_branch(tokens, attn.mix(norm1(tokens), k[image], v[image]))

        def mix_band(tokens: Tensor, band: Band) -> Tensor:
            return add_branch(band.without_halo(tokens), mlp.mix(norm2(tokens), band))

        if wants_bands(tokens, query_dims):
            del normed
            tokens = map_in_bands(attend_band, tokens, hw, query_dims)
        else:
            tokens = add_branch(tokens, attn.mix(normed, k, v))
        if wants_bands(tokens, hidden_dims):
            return map_in_bands(mix_band, tokens, hw, hidden_dims, mlp.halo)
        return mix_band(tokens, Band.whole(hw))

    def _is_one_call(self) -> bool:
        if self.drop_path.training:
            return False  # it takes whole samples
        fast = isinstance(self.attn, FastAttention) and isinstance(self.mlp, FastMlp)
        return fast and not obstacle(self, BLOCK_PARTS)


TWINS: dict[type[nn.Module], type[nn.Module]] = {
    Block: FastBlock,
    ConvMlp: FastConvMlp,
    LinearSpatialReductionAttention: FastLinearAttention,
    Mlp: FastMlp,
    SpatialReductionAttention: FastAttention,
}
BLOCK_PARTS = {*TWINS.values(), DepthwiseConv, DropPath}
# Which gain only if their weights are prepacked.
PREPACKED_TWINS: dict[type[nn.Module], type[nn.Module]] = {PatchEmbed: FastPatchEmbed}
