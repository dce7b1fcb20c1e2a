"""timm's and transformers' contenders of the benchmark compute what ours computes."""

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("transformers")

from pvt_mm.checkpoints import map_state_dict  # noqa: E402
from pvt_mm.costs.benchmark.contenders import build_backbone  # noqa: E402

SHAPE = (96, 160)


@pytest.mark.parametrize(
    ("name", "arch", "detail"),
    [
        ("timm", "pvt_v2_b0", "SDPA"),
        ("timm", "pvt_v2_b2_li", "SDPA"),
        ("transformers", "pvt_v2_b0", "eager attention"),
        ("transformers", "pvt_v2_b2_li", "eager attention"),
        ("transformers", "pvt_tiny", "eager attention, it has no other; position embeddings"),
    ],
)
def test_maps_of_a_peer_are_ours_under_its_weights(name, arch, detail):
    torch.manual_seed(0)
    theirs = build_backbone(name, arch, SHAPE)
    assert theirs.detail.startswith(detail)
    module = theirs.module.eval()
    weights = getattr(module, "model", module).state_dict()
    ours = build_backbone("pvt_mm", arch, SHAPE).module.eval()
    # Theirs are of this input's size: none on either side.
    for key in [key for key in weights if "position" in key]:
        weights.pop(key).zero_()
    # timm's feature extractor flattens the names of its stages.
    weights = {key.replace("stages_", "stages."): value for key, value in weights.items()}
    mapped = map_state_dict(weights).state_dict
    missing, unexpected = ours.load_state_dict(mapped, strict=False)
    assert not unexpected
    assert all(key.startswith("pos_embed") for key in missing)
    for key in missing:
        ours.get_parameter(key).data.zero_()

    image = torch.randn(1, 3, *SHAPE)
    with torch.inference_mode():
        pairs = list(zip(module(image), ours(image), strict=True))
    assert len(pairs) == 4
    assert all(theirs.shape == ours.shape for theirs, ours in pairs)
    if arch == "pvt_tiny":
        pairs.pop()  # there theirs looks at the class token as well
    for their_map, our_map in pairs:
        torch.testing.assert_close(their_map, our_map, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_a_training_step_of_a_peer_drops_nothing(name):
    module = build_backbone(name, "pvt_v2_b0", SHAPE).module.train()
    image = torch.randn(1, 3, *SHAPE)
    with torch.no_grad():
        once, again = module(image), module(image)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
