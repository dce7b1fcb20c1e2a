"""The table of layouts: which code base gives which names to a PVT's tensors.

Ours are the official ones. In the templates ``{s}`` is a stage counted from 1, ``{i}`` one counted
from 0, ``{b}`` a block, ``{b1}`` a block where another layer stands first, ``{p}`` weight or bias.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pvt_mm.checkpoints.rules import Rule

__all__ = ["CLASSIFIER", "LAYOUTS", "Layout"]

# What a backbone has no use for: the classifier, the class token, v1's norm before the classifier.
CLASSIFIER = ("head.weight", "head.bias", "cls_token", "norm.weight", "norm.bias")


@dataclass(frozen=True)
class Layout:
    """The names that one code base gives to the same tensors.

    Args:
        name: Whose names they are.
        family: What ``--to`` of the converter calls it.
        versions: The PVTs that it knows.
        anchor: A key that each such file has, and no other layout's; what stands before it is
            the file's prefix.
        rules: The renaming, in both directions. None: the names are ours.
        inner: Prefix of the backbone's keys beside its head, where they are no siblings.
        outer: Their names of the head beside that prefix.
        lacks: Our keys that have no place there.
        needs: What only our classifiers have and it gives its backbones, too.
    """

    name: str
    family: str
    versions: tuple[int, ...]
    anchor: str
    rules: tuple[Rule, ...] | None = None
    inner: str = ""
    outer: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def _same(pairs: Iterable[tuple[str, str]]) -> tuple[Rule, ...]:
    return tuple(Rule((ours,), (theirs,)) for ours, theirs in pairs)


_TIMM = _same(
    [
        ("patch_embed1.proj.{p}", "patch_embed.proj.{p}"),
        ("patch_embed1.norm.{p}", "patch_embed.norm.{p}"),
        ("patch_embed{s}.proj.{p}", "stages.{i}.downsample.proj.{p}"),
        ("patch_embed{s}.norm.{p}", "stages.{i}.downsample.norm.{p}"),
        ("block{s}.{b}.mlp.dwconv.dwconv.{p}", "stages.{i}.blocks.{b}.mlp.dwconv.{p}"),
        *(
            (f"block{{s}}.{{b}}.{part}.{{p}}", f"stages.{{i}}.blocks.{{b}}.{part}.{{p}}")
            for part in (
                *("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
                *("attn.q", "attn.kv", "attn.proj", "attn.sr", "attn.norm"),
            )
        ),
        ("norm{s}.{p}", "stages.{i}.norm.{p}"),
        ("head.{p}", "head.{p}"),
    ]
)


def _key_value(block: str) -> Rule:
    """In transformers keys and values are apart."""
    return Rule(
        ("block{s}.{b}.attn.kv.{p}",),
        (f"{block}.key.{{p}}", f"{block}.value.{{p}}"),
        their_parts=(1, 1),
    )


_V1_BLOCK = "pvt.encoder.block.{i}.{b}"
_TRANSFORMERS_V1 = (
    *_same(
        [
            ("pos_embed{s}", "pvt.encoder.patch_embeddings.{i}.position_embeddings"),
            ("cls_token", "pvt.encoder.patch_embeddings.3.cls_token"),
            ("patch_embed{s}.proj.{p}", "pvt.encoder.patch_embeddings.{i}.projection.{p}"),
            ("patch_embed{s}.norm.{p}", "pvt.encoder.patch_embeddings.{i}.layer_norm.{p}"),
            ("block{s}.{b}.norm1.{p}", f"{_V1_BLOCK}.layer_norm_1.{{p}}"),
            ("block{s}.{b}.norm2.{p}", f"{_V1_BLOCK}.layer_norm_2.{{p}}"),
            ("block{s}.{b}.attn.q.{p}", f"{_V1_BLOCK}.attention.self.query.{{p}}"),
            ("block{s}.{b}.attn.sr.{p}", f"{_V1_BLOCK}.attention.self.sequence_reduction.{{p}}"),
            ("block{s}.{b}.attn.norm.{p}", f"{_V1_BLOCK}.attention.self.layer_norm.{{p}}"),
            ("block{s}.{b}.attn.proj.{p}", f"{_V1_BLOCK}.attention.output.dense.{{p}}"),
            ("block{s}.{b}.mlp.fc1.{p}", f"{_V1_BLOCK}.mlp.dense1.{{p}}"),
            ("block{s}.{b}.mlp.fc2.{p}", f"{_V1_BLOCK}.mlp.dense2.{{p}}"),
            ("norm.{p}", "pvt.encoder.layer_norm.{p}"),
            ("head.{p}", "classifier.{p}"),
        ]
    ),
    _key_value(f"{_V1_BLOCK}.attention.self"),
)

_V2_STAGE = "pvt_v2.encoder.layers.{i}"
_V2_BLOCK = f"{_V2_STAGE}.blocks.{{b}}"
_TRANSFORMERS_V2 = (
    *_same(
        [
            ("patch_embed{s}.proj.{p}", f"{_V2_STAGE}.patch_embedding.proj.{{p}}"),
            ("patch_embed{s}.norm.{p}", f"{_V2_STAGE}.patch_embedding.layer_norm.{{p}}"),
            ("block{s}.{b}.norm1.{p}", f"{_V2_BLOCK}.layer_norm_1.{{p}}"),
            ("block{s}.{b}.norm2.{p}", f"{_V2_BLOCK}.layer_norm_2.{{p}}"),
            ("block{s}.{b}.attn.q.{p}", f"{_V2_BLOCK}.attention.query.{{p}}"),
            ("block{s}.{b}.attn.proj.{p}", f"{_V2_BLOCK}.attention.proj.{{p}}"),
            ("block{s}.{b}.attn.sr.{p}", f"{_V2_BLOCK}.attention.spatial_reduction.{{p}}"),
            ("block{s}.{b}.attn.norm.{p}", f"{_V2_BLOCK}.attention.layer_norm.{{p}}"),
            ("block{s}.{b}.mlp.fc1.{p}", f"{_V2_BLOCK}.mlp.dense1.{{p}}"),
            ("block{s}.{b}.mlp.fc2.{p}", f"{_V2_BLOCK}.mlp.dense2.{{p}}"),
            ("block{s}.{b}.mlp.dwconv.dwconv.{p}", f"{_V2_BLOCK}.mlp.dwconv.dwconv.{{p}}"),
            ("norm{s}.{p}", f"{_V2_STAGE}.layer_norm.{{p}}"),
            ("head.{p}", "classifier.{p}"),
        ]
    ),
    _key_value(f"{_V2_BLOCK}.attention"),
)


def _mmdet(block: str, fc2: int) -> tuple[Rule, ...]:
    """Attention is torch's own, with one matrix for all three; linear layers are convolutions."""
    block = f"layers.{{i}}.1.{block}"
    return (
        *_same(
            [
                ("patch_embed{s}.proj.{p}", "layers.{i}.0.projection.{p}"),
                ("patch_embed{s}.norm.{p}", "layers.{i}.0.norm.{p}"),
                ("block{s}.{b}.norm1.{p}", f"{block}.norm1.{{p}}"),
                ("block{s}.{b}.norm2.{p}", f"{block}.norm2.{{p}}"),
                ("block{s}.{b}.attn.proj.{p}", f"{block}.attn.attn.out_proj.{{p}}"),
                ("block{s}.{b}.attn.sr.{p}", f"{block}.attn.sr.{{p}}"),
                ("block{s}.{b}.attn.norm.{p}", f"{block}.attn.norm.{{p}}"),
                ("block{s}.{b}.mlp.dwconv.dwconv.{p}", f"{block}.ffn.layers.1.{{p}}"),
                ("norm{s}.{p}", "layers.{i}.2.{p}"),
            ]
        ),
        Rule(
            ("block{s}.{b}.attn.q.{p}", "block{s}.{b}.attn.kv.{p}"),
            (f"{block}.attn.attn.in_proj_{{p}}",),
            our_parts=(1, 2),
        ),
        Rule(("block{s}.{b}.mlp.fc1.{p}",), (f"{block}.ffn.layers.0.{{p}}",), pointwise=True),
        Rule(("block{s}.{b}.mlp.fc2.{p}",), (f"{block}.ffn.layers.{fc2}.{{p}}",), pointwise=True),
    )


_MMDET_V1 = (
    Rule(("pos_embed4",), ("layers.3.1.0.pos_embed",), class_entry=True),
    *_same([("pos_embed{s}", "layers.{i}.1.0.pos_embed")]),
    *_mmdet("{b1}", fc2=3),
)

LAYOUTS: tuple[Layout, ...] = (
    Layout("official", "pvt_mm", (1, 2), r"patch_embed1\.proj\.weight"),
    Layout("timm", "timm", (2,), r"stages\.1\.downsample\.proj\.weight", _TIMM),
    Layout(
        "transformers Pvt",
        "transformers",
        (1,),
        r"(pvt\.)?encoder\.patch_embeddings\.0\.projection\.weight",
        _TRANSFORMERS_V1,
        inner="pvt.",
        outer=("classifier.weight", "classifier.bias"),
        needs=("cls_token", "norm.weight", "norm.bias"),
    ),
    Layout(
        "transformers PvtV2",
        "transformers",
        (2,),
        r"(pvt_v2\.)?encoder\.layers\.0\.patch_embedding\.proj\.weight",
        _TRANSFORMERS_V2,
        inner="pvt_v2.",
        outer=("classifier.weight", "classifier.bias"),
    ),
    Layout(
        "mmdet PyramidVisionTransformer",
        "mmdet",
        (1,),
        r"layers\.0\.1\.0\.pos_embed",
        _MMDET_V1,
        lacks=CLASSIFIER,
    ),
    Layout(
        "mmdet PyramidVisionTransformerV2",
        "mmdet",
        (2,),
        r"layers\.0\.1\.0\.ffn\.layers\.1\.weight",
        _mmdet("{b}", fc2=4),
        lacks=CLASSIFIER,
    ),
)
