"""The backbones: an architecture, its four stages, one feature map a stage."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pvt_mm.archs import Arch
from pvt_mm.backbones.arguments import (
    NUM_STAGES,
    as_pair,
    check_bool,
    check_int,
    check_rate,
    parse_out_indices,
    resolve_arch,
)
from pvt_mm.backbones.attention import LinearSpatialReductionAttention, SpatialReductionAttention
from pvt_mm.backbones.block import Block
from pvt_mm.backbones.embed import PatchEmbed
from pvt_mm.backbones.mlp import ConvMlp, Mlp
from pvt_mm.backbones.stage import run_stage
from pvt_mm.errors import InputSizeError
from pvt_mm.registry import MODELS
from pvt_mm.tokens import resize_pos_embed

__all__ = ["PVT", "PVTv2"]

InitCfg = dict[str, Any] | list[dict[str, Any]] | None
MIN_SIZE = 32  # pixels: the last stage still has one token


class _PyramidVisionTransformer(BaseModule):
    """What both versions share: stages by their released names, freezing, weights.

    The stages stand side by side as ``patch_embed1``, ``block1``, ... ``block4``, which are the
    names in the authors' checkpoints.
    """

    def __init__(
        self,
        arch: Arch,
        in_channels: int,
        out_indices: int | Sequence[int],
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: InitCfg,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = arch
        self.in_channels = check_int("in_channels", in_channels, 1)
        self.out_indices = parse_out_indices(out_indices)
        self.frozen_stages = check_int("frozen_stages", frozen_stages, -1, NUM_STAGES)
        self.norm_eval = check_bool("norm_eval", norm_eval)
        self.with_cp = check_bool("with_cp", with_cp)
        self.drop_rate = check_rate("drop_rate", drop_rate)
        self.attn_drop_rate = check_rate("attn_drop_rate", attn_drop_rate)
        drop_path_rate = check_rate("drop_path_rate", drop_path_rate)

        # Stages that nobody reads would hold parameters without a gradient, which
        # DistributedDataParallel refuses.
        self.num_stages = self.out_indices[-1] + 1
        drop_paths = torch.linspace(0, drop_path_rate, sum(arch.depths), device="cpu").tolist()
        channels = (self.in_channels, *arch.embed_dims)
        for stage in range(self.num_stages):
            embed = self._make_patch_embed(stage, channels[stage], channels[stage + 1])
            first = sum(arch.depths[:stage])
            blocks = [
                self._make_block(stage, drop_path)
                for drop_path in drop_paths[first : first + arch.depths[stage]]
            ]
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))

    @abstractmethod
    def _make_patch_embed(self, stage: int, in_channels: int, embed_dims: int) -> PatchEmbed:
        """Build the patch embedding of one stage."""

    @abstractmethod
    def _make_block(self, stage: int, drop_path_rate: float) -> Block:
        """Build one block of one stage."""

    @abstractmethod
    def _forward_stage(self, x: Tensor, stage: int) -> Tensor:
        """Run one stage."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract the feature maps of an image.

        Args:
            x: Images, ``(B, in_channels, h, w)``, at least 32x32 pixels.

        Returns:
            One contiguous map for each of ``out_indices``, ``(B, C, H, W)``, at strides 4, 8, 16
            and 32.

        Raises:
            ValueError: If ``x`` has another number of dimensions or channels.
            InputSizeError: If it is too small; it is a ValueError, too.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"input must be (B, {self.in_channels}, h, w), got {tuple(x.shape)}; "
                "for other channels set in_channels"
            )
        if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
            raise InputSizeError(
                f"input must be at least {MIN_SIZE}x{MIN_SIZE} pixels, got "
                f"{x.shape[2]}x{x.shape[3]}; enlarge it, or let the data preprocessor pad it: "
                "size_divisor=32 in test_cfg of a segmentor's, pad_size_divisor=32 of a detector's"
            )
        outs = []
        for stage in range(self.num_stages):
            x = self._forward_stage(x, stage)
            if stage in self.out_indices:
                # Not channels-last: mmcv's RoIAlign reads memory as NCHW, whatever the strides.
                outs.append(x.contiguous())
        return tuple(outs)

    def train(self, mode: bool = True) -> _PyramidVisionTransformer:
        """Set training mode; frozen stages, and with ``norm_eval`` the norms, stay in eval mode."""
        super().train(mode)
        for name, child in self.named_children():
            if self._is_frozen(name):
                child.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, (_NormBase, nn.LayerNorm)):
                    module.eval()
        return self

    def _is_frozen(self, name: str) -> bool:
        """Whether the parameter or child ``name`` belongs to a frozen stage."""
        digit = name.split(".")[0][-1]
        return digit.isdigit() and int(digit) <= self.frozen_stages

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Find the depth of a parameter, for learning rates that decay from layer to layer.

        Args:
            param_name: Name of the parameter, with ``prefix``.
            prefix: What this backbone's names begin with, as in ``"backbone."``.

        Returns:
            The layer, counted from the input, and the number of layers. 0 are the first patch
            embedding and its position embedding, then each block is one. What leads into a stage
            counts with its first block, its norm with the last one. All else, such as heads, is
            the last layer.
        """
        num_layers = sum(self.arch.depths[: self.num_stages]) + 2
        part, _, rest = param_name.removeprefix(prefix).partition(".")
        name, stage = part.rstrip("1234"), int(part[-1]) if part[-1:].isdigit() else 0
        kinds = ("patch_embed", "pos_embed", "block", "norm")
        if not param_name.startswith(prefix) or name not in kinds or not stage:
            return num_layers - 1, num_layers
        before = sum(self.arch.depths[: stage - 1])
        if name == "block":
            return before + int(rest.partition(".")[0]) + 1, num_layers
        if name == "norm":
            return before + self.arch.depths[stage - 1], num_layers
        return (0 if stage == 1 else before + 1), num_layers

    def _freeze(self) -> None:
        """Take the frozen stages' parameters out of training."""
        for name, parameter in self.named_parameters():
            if self._is_frozen(name):
                parameter.requires_grad_(False)
        self.train(self.training)

    def init_weights(self) -> None:
        """Initialise the weights, from ``init_cfg`` if there is one, else as the authors do.

        A ``Pretrained`` one is loaded strictly: see :func:`pvt_mm.checkpoints.load_pretrained`.
        """
        pretrained = self._pretrained_cfg()
        if pretrained is not None:
            from pvt_mm.checkpoints import load_pretrained

            load_pretrained(self, pretrained["checkpoint"], prefix=pretrained.get("prefix"))
        else:
            self._init_from_scratch()
            if self.init_cfg:
                super().init_weights()
        self._is_init = True

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # A detector's checkpoint may name the backbone's tensors as MMDetection or others do.
        from pvt_mm.checkpoints.pretrained import adapt_state_dict

        adapt_state_dict(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _pretrained_cfg(self) -> dict[str, Any] | None:
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        return next((cfg for cfg in cfgs if cfg["type"] in ("Pretrained", PretrainedInit)), None)

    def _init_from_scratch(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()


@MODELS.register_module()
class PVT(_PyramidVisionTransformer):
    """Pyramid Vision Transformer (v1).

    Features and parameter names are those of the authors' release, whose checkpoints load as
    they are. Built from scratch the weights are PyTorch's defaults until ``init_weights``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'medium'``, ``'large'``, or a dict with ``embed_dims`` and
            ``depths``, and optionally ``num_heads``, ``mlp_ratios``, ``sr_ratios``, of 4 numbers.
        in_channels: Channels of the input image.
        out_indices: Stages, counted from 0, whose maps are returned; later ones are not built.
        drop_rate: Dropout probability after the position embeddings, projections and MLPs.
        attn_drop_rate: Dropout probability of the attention weights.
        drop_path_rate: Probability that a sample skips a branch of the last block; it rises
            linearly from 0 in the first one.
        frozen_stages: The first so many stages are not trained and stay in eval mode; -1 or 0
            freezes none.
        norm_eval: Keep norms in eval mode. Layer norms have no running statistics, so features
            do not change.
        with_cp: Recompute the blocks' activations in the backward pass: less memory, more time.
        pretrain_img_size: Image size, int or ``(h, w)`` in pixels, that the position embeddings
            are laid out for; they are resized to the input's.
        init_cfg: mmengine's initialisation; ``dict(type='Pretrained', checkpoint=...)`` takes a
            path, a URL or ``pvt://NAME``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Reference: arXiv:2102.12122.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrain_img_size: int | Sequence[int] = 224,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(
            resolve_arch(arch, version=1),
            in_channels,
            out_indices,
            drop_rate,
            attn_drop_rate,
            drop_path_rate,
            frozen_stages,
            norm_eval,
            with_cp,
            init_cfg,
        )
        height, width = as_pair("pretrain_img_size", pretrain_img_size, MIN_SIZE)
        self.pretrain_img_size = (height, width)
        self.pos_drop = nn.Dropout(self.drop_rate)
        self.pos_grids = tuple((height // s, width // s) for s in (4, 8, 16, 32))
        for stage in range(self.num_stages):
            entries = math.prod(self.pos_grids[stage])
            if stage == NUM_STAGES - 1:
                entries += 1  # the class token's, which leads in the released checkpoints
            embed = nn.Parameter(torch.zeros(1, entries, self.arch.embed_dims[stage]))
            self.register_parameter(f"pos_embed{stage + 1}", embed)
        self._freeze()

    def _make_patch_embed(self, stage: int, in_channels: int, embed_dims: int) -> PatchEmbed:
        patch = 4 if stage == 0 else 2
        return PatchEmbed(in_channels, embed_dims, kernel_size=patch, stride=patch)

    def _make_block(self, stage: int, drop_path_rate: float) -> Block:
        arch, dims = self.arch, self.arch.embed_dims[stage]
        attn = SpatialReductionAttention(
            dims,
            arch.num_heads[stage],
            arch.sr_ratios[stage],
            attn_drop_rate=self.attn_drop_rate,
            proj_drop_rate=self.drop_rate,
        )
        mlp = Mlp(dims, int(dims * arch.mlp_ratios[stage]), self.drop_rate)
        return Block(dims, attn, mlp, drop_path_rate)

    def _forward_stage(self, x: Tensor, stage: int) -> Tensor:
        return run_stage(
            x,
            getattr(self, f"patch_embed{stage + 1}"),
            getattr(self, f"block{stage + 1}"),
            add_position=partial(self._add_position, stage),
            with_cp=self.with_cp,
        )

    def _add_position(self, stage: int, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        grid = self.pos_grids[stage]
        embed = getattr(self, f"pos_embed{stage + 1}")[:, -math.prod(grid) :]  # no class token
        return self.pos_drop(tokens + resize_pos_embed(embed, grid, hw))

    def _init_from_scratch(self) -> None:
        super()._init_from_scratch()
        for stage in range(self.num_stages):
            nn.init.trunc_normal_(getattr(self, f"pos_embed{stage + 1}"), std=0.02)


@MODELS.register_module()
class PVTv2(_PyramidVisionTransformer):
    """Pyramid Vision Transformer v2.

    Features and parameter names are those of the authors' release, whose checkpoints load as
    they are. Built from scratch the weights are PyTorch's defaults until ``init_weights``.

    Args:
        arch: ``'b0'`` to ``'b5'``, ``'b2_li'``, or a dict with ``embed_dims`` and ``depths``, and
            optionally ``num_heads``, ``mlp_ratios``, ``sr_ratios`` of 4 numbers, ``linear_sra``.
        in_channels: Channels of the input image.
        out_indices: Stages, counted from 0, whose maps are returned; later ones are not built.
        drop_rate: Dropout probability after the projections and in the MLPs.
        attn_drop_rate: Dropout probability of the attention weights.
        drop_path_rate: Probability that a sample skips a branch of the last block; it rises
            linearly from 0 in the first one.
        frozen_stages: The first so many stages are not trained and stay in eval mode; -1 or 0
            freezes none.
        norm_eval: Keep norms in eval mode. Layer norms have no running statistics, so features
            do not change.
        with_cp: Recompute the blocks' activations in the backward pass: less memory, more time.
        linear_sra: Whether to use linear SRA; None takes what ``arch`` says.
        init_cfg: mmengine's initialisation; ``dict(type='Pretrained', checkpoint=...)`` takes a
            path, a URL or ``pvt://NAME``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Reference: arXiv:2106.13797.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "b2",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        linear_sra: bool | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        resolved = resolve_arch(arch, version=2)
        if linear_sra is not None and not isinstance(linear_sra, bool):
            raise TypeError(f"linear_sra must be True, False or None, got {linear_sra!r}")
        if linear_sra is not None:
            resolved = replace(resolved, linear_sra=linear_sra)
        super().__init__(
            resolved,
            in_channels,
            out_indices,
            drop_rate,
            attn_drop_rate,
            drop_path_rate,
            frozen_stages,
            norm_eval,
            with_cp,
            init_cfg,
        )
        for stage in range(self.num_stages):
            norm = nn.LayerNorm(resolved.embed_dims[stage], eps=1e-6)
            self.add_module(f"norm{stage + 1}", norm)
        self._freeze()

    def _make_patch_embed(self, stage: int, in_channels: int, embed_dims: int) -> PatchEmbed:
        if stage == 0:
            return PatchEmbed(in_channels, embed_dims, kernel_size=7, stride=4, padding=3)
        return PatchEmbed(in_channels, embed_dims, kernel_size=3, stride=2, padding=1)

    def _make_block(self, stage: int, drop_path_rate: float) -> Block:
        arch, dims = self.arch, self.arch.embed_dims[stage]
        drops: dict[str, Any] = {
            "attn_drop_rate": self.attn_drop_rate,
            "proj_drop_rate": self.drop_rate,
        }
        heads = arch.num_heads[stage]
        attn: SpatialReductionAttention
        if arch.linear_sra:
            attn = LinearSpatialReductionAttention(dims, heads, **drops)
        else:
            attn = SpatialReductionAttention(dims, heads, arch.sr_ratios[stage], **drops)
        hidden = int(dims * arch.mlp_ratios[stage])
        mlp = ConvMlp(dims, hidden, self.drop_rate, relu=arch.linear_sra)
        return Block(dims, attn, mlp, drop_path_rate)

    def _forward_stage(self, x: Tensor, stage: int) -> Tensor:
        return run_stage(
            x,
            getattr(self, f"patch_embed{stage + 1}"),
            getattr(self, f"block{stage + 1}"),
            norm=getattr(self, f"norm{stage + 1}"),
            with_cp=self.with_cp,
        )

    def _init_from_scratch(self) -> None:
        super()._init_from_scratch()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
