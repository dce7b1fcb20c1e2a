"""The same backbone, four times: ours, MMDetection's, timm's and transformers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pvt_mm.backbones import ARCHS, Arch
from pvt_mm.kernels import accelerate, restore
from pvt_mm.registry import MODELS

__all__ = [
    "CONTENDERS",
    "PEER_PACKAGES",
    "Contender",
    "Unavailable",
    "build_backbone",
    "mmdet_arguments",
]

CONTENDERS = ("pvt_mm", "pvt_mm_plain", "pvt_mm_recompute", "mmdet", "timm", "transformers")
# Those that do not live in the environment that trains.
PEER_PACKAGES = ("timm", "transformers")

PATCHES = {1: ((4, 2, 2, 2), (4, 2, 2, 2)), 2: ((7, 3, 3, 3), (4, 2, 2, 2))}  # sizes, strides


class Unavailable(Exception):
    """A contender cannot take part; the message says why."""


@dataclass(frozen=True)
class Contender:
    """A backbone that is ready to be measured.

    Args:
        module: From ``(B, 3, H, W)`` to four maps ``(B, C, h, w)``, strides 4, 8, 16, 32.
        detail: What a reader should know of how it runs.
    """

    module: nn.Module
    detail: str


def build_backbone(
    name: str, arch: str, shape: tuple[int, int], with_cp: bool = False
) -> Contender:
    """Build a released architecture as one of the implementations, with random weights.

    Dropout and stochastic depth are off in all of them.

    Args:
        name: One of :data:`CONTENDERS`.
        arch: A name of :data:`pvt_mm.backbones.ARCHS`.
        shape: Height and width of the input, for the one that does not take any other.
        with_cp: Whether pvt_mm recomputes activations in the backward pass.

    Raises:
        Unavailable: If the package is not installed or has no such architecture.
        ValueError: If the contender is unknown.
    """
    if name not in _BUILDERS:
        raise ValueError(f"contender {name!r} is unknown; known are {', '.join(CONTENDERS)}")
    return _BUILDERS[name](ARCHS[arch], shape, with_cp)


def _import(package: str, module: str) -> ModuleType:
    if find_spec(package) is None:
        raise Unavailable(f"{package} is not installed")
    try:
        return import_module(module)
    except Exception as error:  # a peer's broken import is a row of the table, not the end of it
        raise Unavailable(f"{module} does not import: {error}") from error


def _pvt_mm(arch: Arch, shape: tuple[int, int], with_cp: bool) -> Contender:
    module = MODELS.build({**arch.config, "with_cp": with_cp})
    module.init_weights()
    accelerate(module, prepack=True)  # as the Predictor does; a training does not ask for it
    return Contender(module, "with_cp" if with_cp else "")


def _pvt_mm_plain(arch: Arch, shape: tuple[int, int], with_cp: bool) -> Contender:
    contender = _pvt_mm(arch, shape, with_cp)
    restore(contender.module)
    return contender


def _pvt_mm_recompute(arch: Arch, shape: tuple[int, int], with_cp: bool) -> Contender:
    contender = _pvt_mm(arch, shape, with_cp)
    accelerate(contender.module, recompute=True)
    return contender


def mmdet_arguments(arch: Arch) -> dict[str, Any]:
    """What MMDetection's own classes call an architecture's sizes."""
    return {
        "embed_dims": arch.embed_dims[0],
        "num_layers": list(arch.depths),
        "num_heads": list(arch.num_heads),
        "mlp_ratios": list(arch.mlp_ratios),
        "sr_ratios": list(arch.sr_ratios),
    }


def _mmdet(arch: Arch, shape: tuple[int, int], with_cp: bool) -> Contender:
    if arch.linear_sra:
        raise Unavailable("mmdet has no linear SRA")
    backbones = _import("mmdet", "mmdet.models.backbones.pvt")
    kind = "PyramidVisionTransformer" + ("V2" if arch.version == 2 else "")
    module = getattr(backbones, kind)(drop_path_rate=0.0, **mmdet_arguments(arch))
    return Contender(module, "nn.MultiheadAttention")


def _timm(arch: Arch, shape: tuple[int, int], with_cp: bool) -> Contender:
    if arch.version == 1:
        raise Unavailable("timm has no PVT v1")
    timm = _import("timm", "timm")
    module = timm.create_model(arch.name, pretrained=False, features_only=True, drop_path_rate=0.0)
    fused = any(getattr(each, "fused_attn", False) for each in module.modules())
    return Contender(module, "SDPA" if fused else "eager attention")


class _PvtMaps(nn.Module):
    """transformers' PVT v1, which has no backbone class, as four maps.

    Its code to resize position embeddings works for no size but the original (it folds them into
    the new height and width before it resizes), so it gets embeddings of the input's size.
    """

    def __init__(self, model: nn.Module, arch: Arch, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        for stage, embed in enumerate(model.encoder.patch_embeddings):
            tokens = math.prod(side // 2 ** (stage + 2) for side in shape)
            has_class = embed.cls_token is not None
            entries = torch.randn(1, tokens + has_class, arch.embed_dims[stage])
            embed.position_embeddings = nn.Parameter(entries)
        self.last_blocks = [sum(arch.depths[: stage + 1]) - 1 for stage in range(4)]

    def forward(self, image: Tensor) -> list[Tensor]:
        states = self.model(image, output_hidden_states=True).hidden_states
        maps = []
        for stage, index in enumerate(self.last_blocks):
            tokens = states[index]
            height, width = (side // 2 ** (stage + 2) for side in image.shape[2:])
            tokens = tokens[:, -height * width :]  # stage 4 has a class token in front
            maps.append(tokens.transpose(1, 2).unflatten(2, (height, width)))
        return maps


class _BackboneMaps(nn.Module):
    """A backbone of transformers as a module that returns its maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model(image).feature_maps


def _transformers(arch: Arch, shape: tuple[int, int], with_cp: bool) -> Contender:
    transformers = _import("transformers", "transformers")
    sizes, strides = PATCHES[arch.version]
    common = {
        "depths": list(arch.depths),
        "hidden_sizes": list(arch.embed_dims),
        "num_attention_heads": list(arch.num_heads),
        "mlp_ratios": list(arch.mlp_ratios),
        "patch_sizes": list(sizes),
        "strides": list(strides),
        "drop_path_rate": 0.0,
    }
    if arch.version == 1:
        config = transformers.PvtConfig(sequence_reduction_ratios=list(arch.sr_ratios), **common)
        model, attention = _best_attention(transformers.PvtModel, config)
        detail = f"{attention}; position embeddings of the input's size"
        return Contender(_PvtMaps(model, arch, shape), detail)
    config = transformers.PvtV2Config(
        sr_ratios=list(arch.sr_ratios),
        linear_attention=arch.linear_sra,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        **common,
    )
    model, attention = _best_attention(transformers.PvtV2Backbone, config)
    return Contender(_BackboneMaps(model), attention)


def _best_attention(kind: type[nn.Module], config: object) -> tuple[nn.Module, str]:
    """Build with SDPA where the model has it, else with its own attention."""
    try:
        # A copy: a choice that is refused stays in the config.
        return kind._from_config(deepcopy(config), attn_implementation="sdpa"), "SDPA"
    except (ValueError, ImportError):
        model = kind._from_config(config, attn_implementation="eager")
        return model, "eager attention, it has no other"


_BUILDERS: dict[str, Callable[[Arch, tuple[int, int], bool], Contender]] = {
    "pvt_mm": _pvt_mm,
    "pvt_mm_plain": _pvt_mm_plain,
    "pvt_mm_recompute": _pvt_mm_recompute,
    "mmdet": _mmdet,
    "timm": _timm,
    "transformers": _transformers,
}
