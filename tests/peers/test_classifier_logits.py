"""Our classifiers' logits are those of transformers and timm, under the same official weights.

transformers' names are translated by a table of this file, timm's by timm itself, so the package's
own conversion has no part in it.
"""

import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models.pvt_v2 import checkpoint_filter_fn
from transformers import (
    PvtConfig,
    PvtForImageClassification,
    PvtV2Config,
    PvtV2ForImageClassification,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from procedural import official_state_dict, procedural_image  # noqa: E402

from pvt_mm.backbones import ARCHS  # noqa: E402
from pvt_mm.classification import PVTClassifier  # noqa: E402

V1 = [name for name, arch in ARCHS.items() if arch.version == 1]
V2 = [name for name, arch in ARCHS.items() if arch.version == 2]
# The released size for the smallest models, a small one for each kind of block; the deeper models
# repeat those, and tests/peers/test_equivalence.py compares their features. Logits are about 1.
DEEP = ("pvt_medium", "pvt_large", "pvt_v2_b3", "pvt_v2_b4", "pvt_v2_b5")
SIZES_V1 = [("pvt_tiny", 224), *((name, 96) for name in V1 if name not in DEEP)]
SIZES_V2 = [("pvt_v2_b0", (224, 224)), *((name, (96, 130)) for name in V2 if name not in DEEP)]
TOLERANCE = 1e-4

TO_TRANSFORMERS_V1 = (
    (r"patch_embed(\d)\.proj", r"pvt.encoder.patch_embeddings.\1.projection"),
    (r"patch_embed(\d)\.norm", r"pvt.encoder.patch_embeddings.\1.layer_norm"),
    (r"pos_embed(\d)", r"pvt.encoder.patch_embeddings.\1.position_embeddings"),
    (r"cls_token", r"pvt.encoder.patch_embeddings.4.cls_token"),
    (r"block(\d)\.", r"pvt.encoder.block.\1."),
    (r"^norm\.", r"pvt.encoder.layer_norm."),
    (r"\.attn\.proj", r".attention.output.dense"),
    (r"\.attn\.sr", r".attention.self.sequence_reduction"),
    (r"\.attn\.norm", r".attention.self.layer_norm"),
    (r"\.attn\.", r".attention.self."),
)
TO_TRANSFORMERS_V2 = (
    (r"patch_embed(\d)\.proj", r"pvt_v2.encoder.layers.\1.patch_embedding.proj"),
    (r"patch_embed(\d)\.norm", r"pvt_v2.encoder.layers.\1.patch_embedding.layer_norm"),
    (r"block(\d)\.", r"pvt_v2.encoder.layers.\1.blocks."),
    (r"^norm(\d)\.", r"pvt_v2.encoder.layers.\1.layer_norm."),
    (r"\.attn\.sr", r".attention.spatial_reduction"),
    (r"\.attn\.norm", r".attention.layer_norm"),
    (r"\.attn\.", r".attention."),
)
TO_TRANSFORMERS = (
    (r"\.norm(\d)\.", r".layer_norm_\1."),
    (r"\.fc(\d)\.", r".dense\1."),
    (r"\.q\.", r".query."),
    (r"^head\.", r"classifier."),
)


def transformers_state(state, renames):
    """Translate official names; stages count from 0 there, and keys and values stand apart."""
    result = {}
    for key, value in state.items():
        for pattern, replacement in (*renames, *TO_TRANSFORMERS):
            key = re.sub(pattern, replacement, key)
        key = re.sub(
            r"(patch_embeddings|encoder\.block|layers)\.(\d)",
            lambda match: f"{match[1]}.{int(match[2]) - 1}",
            key,
        )
        if ".kv." in key:
            result[key.replace(".kv.", ".key.")], result[key.replace(".kv.", ".value.")] = (
                value.chunk(2)
            )
        else:
            result[key] = value
    return result


def official_epsilons(model):
    """Give a transformers model the norms of the release: 1e-5 after its convolutions."""
    for name, module in model.named_modules():
        if re.search(r"(patch_embedding\w*(\.\d)?|attention(\.self)?)\.layer_norm$", name):
            module.eps = 1e-5
    return model


def ours(name, state, **kwargs):
    arch = ARCHS[name]
    family, prefix = ("PVT", "pvt_") if arch.version == 1 else ("PVTv2", "pvt_v2_")
    backbone = dict(type=f"pvt_mm.{family}", arch=name.removeprefix(prefix), **kwargs)
    model = PVTClassifier(backbone).eval()
    model.load_state_dict(state, strict=True)
    return model


def transformers_v1(name, state, size):
    arch = ARCHS[name]
    config = PvtConfig(
        image_size=size,
        depths=list(arch.depths),
        hidden_sizes=list(arch.embed_dims),
        num_labels=1000,
    )
    model = PvtForImageClassification(config).eval()
    model.load_state_dict(transformers_state(state, TO_TRANSFORMERS_V1), strict=True)
    return model


def transformers_v2(name, state):
    arch = ARCHS[name]
    config = PvtV2Config(
        depths=list(arch.depths),
        hidden_sizes=list(arch.embed_dims),
        mlp_ratios=list(arch.mlp_ratios),
        linear_attention=arch.linear_sra,
        num_labels=1000,
    )
    model = PvtV2ForImageClassification(config).eval()
    model.load_state_dict(transformers_state(state, TO_TRANSFORMERS_V2), strict=True)
    return model


@torch.inference_mode()
def difference(first, second, image):
    """The largest difference of two networks' logits."""
    one, other = first(image), second(image)
    one, other = (getattr(logits, "logits", logits) for logits in (one, other))
    assert one.shape == other.shape == (2, 1000)
    assert one.std() > 0.1
    assert (one[0] - one[1]).abs().max() > 0.1  # the two images of the batch do differ
    return (one - other).abs().max().item()


@pytest.mark.parametrize(("name", "size"), SIZES_V1)
def test_v1_equals_transformers(name, size):
    state = official_state_dict(name)
    if size != 224:
        # transformers cannot resize the position embedding, so both are built for this size.
        for stage, stride in enumerate((4, 8, 16, 32), start=1):
            entries = (size // stride) ** 2 + (stage == 4)
            state[f"pos_embed{stage}"] = state[f"pos_embed{stage}"][:, :entries]
    model = ours(name, state, pretrain_img_size=size)
    peer = official_epsilons(transformers_v1(name, state, size))
    assert difference(model, peer, procedural_image(size, size, batch=2)) < TOLERANCE


@pytest.fixture(scope="module", params=SIZES_V2, ids=lambda case: f"{case[0]}-{case[1][0]}")
def v2(request):
    """A release's name, its state, our network of it and an image."""
    name, size = request.param
    state = official_state_dict(name)
    return name, state, ours(name, state), procedural_image(*size, batch=2)


def test_v2_equals_transformers(v2):
    name, state, model, image = v2
    assert difference(model, official_epsilons(transformers_v2(name, state)), image) < TOLERANCE


def test_v2_equals_timm(v2):
    name, state, model, image = v2
    peer = timm.create_model(name).eval()
    peer.load_state_dict(checkpoint_filter_fn(state, peer), strict=True)
    assert difference(model, peer, image) < TOLERANCE


def test_transformers_v1_cannot_resize_its_embedding():
    """Another number of tokens fails; the same number, here 1x49 for 7x7, is misplaced silently."""
    state = official_state_dict("pvt_tiny")
    model = ours("pvt_tiny", state)
    peer = official_epsilons(transformers_v1("pvt_tiny", state, 224))
    with pytest.raises(RuntimeError, match="must match"):
        difference(model, peer, procedural_image(256, 256, batch=2))
    assert difference(model, peer, procedural_image(32, 1568, batch=2)) > 0.01


@pytest.mark.parametrize("version", [1, 2])
def test_transformers_own_epsilon_shows_at_low_contrast(version):
    """Its 1e-6 in place of 1e-5 is the only difference, and one to see on a flat image."""
    image = 1e-2 * procedural_image(224, 224, batch=2)
    if version == 1:
        state = official_state_dict("pvt_tiny")
        model, peer = ours("pvt_tiny", state), transformers_v1("pvt_tiny", state, 224)
    else:
        state = official_state_dict("pvt_v2_b0")
        model, peer = ours("pvt_v2_b0", state), transformers_v2("pvt_v2_b0", state)
    natural = difference(model, peer, image)
    assert natural > 10 * TOLERANCE
    assert difference(model, official_epsilons(peer), image) < TOLERANCE
