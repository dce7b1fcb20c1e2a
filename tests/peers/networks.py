"""The real peers, built small in time and memory, and weights for them and for ours."""

import functools

import timm
import torch
from mmdet.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from procedural import STATE_DICTS, build
from transformers import (
    PvtConfig,
    PvtForImageClassification,
    PvtModel,
    PvtV2Backbone,
    PvtV2Config,
    PvtV2ForImageClassification,
)

from pvt_mm.backbones import ARCHS
from pvt_mm.checkpoints.key_mapping import to_layout
from pvt_mm.checkpoints.layouts import LAYOUTS

V1 = [name for name, arch in ARCHS.items() if arch.version == 1]
V2 = [name for name, arch in ARCHS.items() if arch.version == 2]
MODELS = [
    *(("timm", name) for name in V2),
    *(("transformers", name) for name in [*V1, *V2]),
    *(("mmdet", name) for name in [*V1, *V2] if not ARCHS[name].linear_sra),
]
MODELS.sort(key=lambda model: model[1])  # those with the same weights one after the other


def layout_of(family, name):
    found = (x for x in LAYOUTS if x.family == family and ARCHS[name].version in x.versions)
    return next(found)


def random_state(name, image_size=224):
    """A whole classifier's state dict; norms, biases and embeddings are random, too."""
    state = dict(_random_state(name))
    for stage in range(1, 5) if ARCHS[name].version == 1 else ():
        entries = (image_size // 2 ** (stage + 1)) ** 2 + (stage == 4)
        state[f"pos_embed{stage}"] = state[f"pos_embed{stage}"][:, :entries].clone()
    return state


@functools.lru_cache(maxsize=1)
def _random_state(name):
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in STATE_DICTS[name]["classification"].items():
        value = torch.empty(shape).normal_(generator=generator)
        if key.endswith(".bias"):
            value *= 0.1
        elif len(shape) == 1:
            value = 1 + 0.1 * value
        elif not key.startswith(("pos_embed", "cls")):
            value /= torch.tensor(shape[1:]).prod().sqrt()
        state[key] = value
    return state


def build_peer(family, name, image_size=224, classifier=False):
    """A peer without weights; `load` gives it some."""
    arch = ARCHS[name]
    if family == "timm":
        with torch.device("meta"):
            return timm.create_model(name, num_classes=1000 if classifier else 0).eval()
    common = {"depths": list(arch.depths), "mlp_ratios": list(arch.mlp_ratios)}
    if family == "mmdet":
        common = {"num_layers": arch.depths, "mlp_ratios": arch.mlp_ratios}
        common |= {"embed_dims": arch.embed_dims[0], "drop_path_rate": 0.0}
        kind = PyramidVisionTransformer if arch.version == 1 else PyramidVisionTransformerV2
        return kind(**common).eval()
    common["hidden_sizes"] = list(arch.embed_dims)
    with torch.device("meta"):
        if arch.version == 1:
            config = PvtConfig(image_size=image_size, **common)
            return (PvtForImageClassification if classifier else PvtModel)(config).eval()
        stages = ["stage1", "stage2", "stage3", "stage4"]
        config = PvtV2Config(linear_attention=arch.linear_sra, out_features=stages, **common)
        config.num_labels = 1000
        return (PvtV2ForImageClassification if classifier else PvtV2Backbone)(config).eval()


def load(peer, state, family, name, classifier=False):
    """Load our weights into a peer, strictly."""
    if not classifier:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    converted, _ = to_layout(state, layout_of(family, name))
    peer.load_state_dict(converted, strict=True, assign=True)
    return peer


def set_released_eps(peer):
    """Give a peer the epsilon of the release, 1e-5, in its patch embeddings and SR norms."""
    patterns = (
        *("layers.{}.0.norm", "layers.{}.patch_embedding.layer_norm"),
        *("patch_embeddings.{}.layer_norm", "attn.norm", "attention.layer_norm"),
        "attention.self.layer_norm",
    )
    ends = tuple(pattern.format(i) for pattern in patterns for i in range(4))
    changed = 0
    for name, module in peer.named_modules():
        if isinstance(module, torch.nn.LayerNorm) and name.endswith(ends):
            changed += module.eps != 1e-5
            module.eps = 1e-5
    return changed


def drop_class_token(peer):
    """Take the class token out of transformers' v1, as dense prediction does."""
    embeddings = peer.encoder.patch_embeddings[3]
    embeddings.cls_token = None
    embeddings.position_embeddings = torch.nn.Parameter(embeddings.position_embeddings[:, 1:])


def features(peer, family, name, image):
    """The four maps of a peer."""
    arch = ARCHS[name]
    if family == "timm":
        return peer.forward_intermediates(image, intermediates_only=True)
    if family == "mmdet":
        return peer(image)
    if arch.version == 2:
        return peer(image).feature_maps
    states = peer(image, output_hidden_states=True).hidden_states
    maps, size = [], image.shape[2] // 2
    for stage in range(4):
        tokens, size = states[sum(arch.depths[: stage + 1]) - 1], size // 2
        tokens = tokens[:, -(size**2) :]  # without a class token
        maps.append(tokens.transpose(1, 2).unflatten(2, (size, size)))
    return maps


def ours(name, state, **kwargs):
    """Our backbone with a state dict, strictly."""
    with torch.device("meta"):
        backbone = build(name, **kwargs)
    backbone.load_state_dict(state, strict=True, assign=True)
    return backbone
