"""Converted networks give the same features as their source, in the real peers' own code."""

import pytest
import torch
from networks import (
    MODELS,
    V1,
    build_peer,
    drop_class_token,
    features,
    layout_of,
    load,
    ours,
    random_state,
    set_released_eps,
)

from pvt_mm.backbones import ARCHS
from pvt_mm.checkpoints import map_classifier, map_state_dict
from pvt_mm.checkpoints.key_mapping import to_layout
from pvt_mm.checkpoints.recognise import recognise_arch

SIZES = [(64, 64), (96, 64), (75, 109)]
SQUARES = [64, 96, 75]
TOLERANCE = 1e-4


def largest_difference(a, b):
    assert len(a) == len(b) == 4
    assert [x.shape for x in a] == [x.shape for x in b]
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("family", "name"),
    [model for model in MODELS if model[0] != "transformers" or model[1] not in V1],
)
@torch.no_grad()
def test_same_features(family, name):
    torch.manual_seed(0)
    peer = load(build_peer(family, name), random_state(name), family, name)
    changed = set_released_eps(peer)
    assert bool(changed) == (family != "timm")
    mapped, _ = map_state_dict(peer.state_dict())
    backbone = ours(name, mapped)
    for size in SIZES:
        image = torch.randn(1, 3, *size)
        difference = largest_difference(features(peer, family, name, image), backbone(image))
        assert difference < TOLERANCE, size


@pytest.mark.parametrize("name", V1)
@torch.no_grad()
def test_same_features_as_transformers_pvt(name):
    # It takes no other size than its configuration's.
    for size in SQUARES:
        torch.manual_seed(0)
        peer = build_peer("transformers", name, size)
        load(peer, random_state(name, size), "transformers", name)
        mapped, unused = map_state_dict(peer.state_dict())
        assert len(unused) == 3  # class token and final norm
        assert set_released_eps(peer)
        image = torch.randn(1, 3, size, size)
        backbone = ours(name, mapped, pretrain_img_size=size)
        drop_class_token(peer)
        wanted = features(peer, "transformers", name, image)
        assert largest_difference(wanted, backbone(image)) < TOLERANCE, size


@pytest.mark.parametrize(("family", "name"), MODELS)
def test_there_and_back_is_bit_exact(family, name):
    state = random_state(name)
    layout = layout_of(family, name)
    if family == "mmdet":
        state = {key: value for key, value in state.items() if key not in layout.lacks}
        if ARCHS[name].version == 1:
            state["pos_embed4"][:, 0] = 0  # the class token's entry, which mmdet lacks
    theirs, left_out = to_layout(state, layout)
    assert not left_out
    if family != "mmdet":
        load(build_peer(family, name, classifier=True), state, family, name, classifier=True)
    back, unused = map_classifier(theirs)
    assert not unused and back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert recognise_arch(back) == name
