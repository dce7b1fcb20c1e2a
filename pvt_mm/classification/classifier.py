"""The image classifier around a PVT backbone, with the released checkpoints' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from pvt_mm.backbones import PVT, PVTv2
from pvt_mm.backbones.arguments import check_int, check_rate
from pvt_mm.backbones.stage import run_stage
from pvt_mm.registry import MODELS
from pvt_mm.tokens import resize_pos_embed

__all__ = ["PVTClassifier", "predictions"]

# Shape legend: B batch, N = H*W tokens of stage 4, C their channels, K classes.

LAST_STAGE = 3
_BACKBONE = "backbone."
_OWN = ("head.", "norm.", "cls_token", "data_preprocessor.")


@MODELS.register_module()
class PVTClassifier(BaseModel):
    """The classifier of the papers: a PVT, its pooled last stage, and a linear head.

    PVT v1 pools with a class token, which joins in stage 4 only and passes a norm of its own; v2
    takes the mean of the normed tokens. In its state dict the parameters have the official names
    (``patch_embed1.proj.weight``, ``cls_token``, ``head.weight``), so releases and what is trained
    here can take each other's place, as classifiers and as a detector's pre-trained backbone.

    Args:
        backbone: Config of a :class:`~pvt_mm.PVT` or :class:`~pvt_mm.PVTv2`, or one of them that
            returns its last stage only (``out_indices=(3,)``, which a config gets by itself).
        num_classes: Classes ``K``.
        label_smoothing: Part of the target that is spread over all classes, in training.
        data_preprocessor: Config; by default a ``pvt_mm.ClsDataPreprocessor``, which normalises.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` to start from a whole classifier; a
            head for another number of classes is left out.

    Shape:
        inputs: ``(B, in_channels, h, w)``, normalised.
        labels: ``(B,)`` class indices, or ``(B, K)`` probabilities.

    Raises:
        TypeError: If the backbone is no PVT, or another argument has the wrong type.
        ValueError: If an argument is out of range, or the backbone does not end in stage 4.

    Reference: PVT, section 4.1, arXiv:2102.12122; PVT v2, section 4.1, arXiv:2106.13797.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | PVT | PVTv2,
        num_classes: int = 1000,
        label_smoothing: float = 0.0,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if init_cfg is not None and init_cfg.get("type") != "Pretrained":
            raise ValueError(f"init_cfg must be of type 'Pretrained' or None, got {init_cfg!r}")
        preprocessor = data_preprocessor or {"type": "pvt_mm.ClsDataPreprocessor"}
        super().__init__(preprocessor, init_cfg)
        self.backbone = _build_backbone(backbone)
        self.num_classes = check_int("num_classes", num_classes, 1)
        self.label_smoothing = check_rate("label_smoothing", label_smoothing)
        # What the loading of weights wants to know.
        self.arch, self.num_stages = self.backbone.arch, self.backbone.num_stages
        dims = self.arch.embed_dims[LAST_STAGE]
        if isinstance(self.backbone, PVT):
            self.pos_grids = self.backbone.pos_grids
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
            self.norm = nn.LayerNorm(dims, eps=1e-6)
        self.head = nn.Linear(dims, self.num_classes)
        self._register_state_dict_hook(_to_official_names)
        self._register_load_state_dict_pre_hook(_from_official_names, with_module=True)

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        img_path: list[str] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Any]]:
        """Classify images, in one of mmengine's three modes.

        Args:
            inputs: ``(B, in_channels, h, w)``, normalised.
            labels: ``(B,)`` indices or ``(B, K)`` probabilities; needed by ``'loss'``.
            img_path: Where the images come from, handed on by ``'predict'``.
            mode: ``'tensor'``, ``'loss'`` or ``'predict'``.

        Returns:
            Logits ``(B, K)``; or ``{'loss': ...}``; or one dict per image with ``pred_scores``
            ``(K,)``, ``pred_label`` and, as far as known, ``gt_label`` and ``img_path``.

        Raises:
            ValueError: If the mode is unknown, or labels are missing or out of range.
        """
        if mode not in ("tensor", "loss", "predict"):
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")
        logits = self.head(self.pool(inputs))
        if mode == "tensor":
            return logits
        if mode == "predict":
            return predictions(logits, labels, img_path)
        if labels is None:
            raise ValueError("mode='loss' needs labels")
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return {"loss": loss}

    def pool(self, inputs: Tensor) -> Tensor:
        """Describe each image by one vector ``(B, C)``, which the head classifies."""
        if isinstance(self.backbone, PVTv2):
            return self.backbone(inputs)[-1].mean(dim=(2, 3))
        x = inputs
        for stage in range(LAST_STAGE):
            x = self.backbone._forward_stage(x, stage)
        tokens = run_stage(
            x,
            self._embed_with_class_token,
            self.backbone.block4,
            norm=self.norm,
            with_cp=self.backbone.with_cp,
        )
        return tokens[:, :, 0, 0]

    def _embed_with_class_token(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Make stage 4's tokens, the class token first: a row of 1 + N, for attention's sake."""
        backbone = self.backbone
        tokens, hw = backbone.patch_embed4(x)  # (B, N, C)
        embed = backbone.pos_embed4
        rest = resize_pos_embed(embed[:, 1:], self.pos_grids[LAST_STAGE], hw)
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([cls_token, tokens], dim=1) + torch.cat([embed[:, :1], rest], dim=1)
        return backbone.pos_drop(tokens), (1, tokens.shape[1])

    def init_weights(self) -> None:
        """Initialise all weights as the authors do, or load a whole classifier, strictly."""
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if isinstance(self.backbone, PVT):
            nn.init.trunc_normal_(self.cls_token, std=0.02)
            self.norm.reset_parameters()
        if self.init_cfg:
            from pvt_mm.checkpoints import load_pretrained

            load_pretrained(self, self.init_cfg["checkpoint"], prefix=self.init_cfg.get("prefix"))
        else:
            self.backbone.init_weights()
        self._is_init = True


def predictions(
    logits: Tensor, labels: Tensor | None = None, img_path: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Make of logits ``(B, K)`` what the classifier's ``mode='predict'`` returns."""
    scores = logits.float().softmax(dim=1)
    samples = [{"pred_scores": s, "pred_label": int(s.argmax())} for s in scores]
    for name, values in (("gt_label", labels), ("img_path", img_path)):
        for sample, value in zip(samples, () if values is None else values, strict=False):
            sample[name] = int(value) if name == "gt_label" else value
    return samples


def _build_backbone(backbone: Mapping[str, Any] | PVT | PVTv2) -> PVT | PVTv2:
    if isinstance(backbone, Mapping):
        backbone = MODELS.build({"out_indices": (LAST_STAGE,), **backbone})
    if not isinstance(backbone, (PVT, PVTv2)):
        raise TypeError(f"backbone must be a PVT or PVTv2, got {type(backbone).__name__}")
    if backbone.out_indices != (LAST_STAGE,):
        raise ValueError(f"backbone.out_indices must be ({LAST_STAGE},): only stage 4 is pooled")
    if isinstance(backbone, PVT) and backbone.arch.sr_ratios[LAST_STAGE] != 1:
        raise ValueError(
            "backbone.arch['sr_ratios'] must end in 1: the class token of PVT v1 has no place on "
            f"the map that stage 4 would reduce; got {backbone.arch.sr_ratios}"
        )
    return backbone


def _to_official_names(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict
) -> None:
    """Drop ``backbone.`` from the names in a state dict, in place."""
    inside = prefix + _BACKBONE
    for key in [key for key in state if key.startswith(prefix)]:
        # Every key is put back, so that their order stays.
        state[prefix + key.removeprefix(inside).removeprefix(prefix)] = state.pop(key)


def _from_official_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Put ``backbone.`` before the names that are not the classifier's own, in place.

    A classifier of another code base, such as timm's, is brought under the official names first.
    """
    below = {key.removeprefix(prefix): state.pop(key) for key in [*state] if key.startswith(prefix)}
    first = "patch_embed1.proj.weight"
    if first not in below and _BACKBONE + first not in below:
        from pvt_mm.checkpoints import CheckpointError, map_classifier

        # What holds no PVT is left to the check after this, which names what is missing.
        with suppress(CheckpointError):
            below = map_classifier(below).state_dict
    for name, value in below.items():
        own = name.startswith((_BACKBONE, *_OWN))
        state[f"{prefix}{name}" if own else f"{prefix}{_BACKBONE}{name}"] = value
