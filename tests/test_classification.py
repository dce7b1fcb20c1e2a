"""The classifier: names of the releases, an oracle for its logits, losses, predictions, weights."""

import copy

import pytest
import reference
import torch
from mmengine.registry import MODELS
from procedural import STATE_DICTS, official_state_dict, procedural_image

from pvt_mm.backbones import ARCHS, PVT
from pvt_mm.checkpoints import CheckpointError, load_pretrained
from pvt_mm.classification import PVTClassifier, TopKAccuracy, imagenet_classes

TINY_V1 = dict(embed_dims=(8, 16, 40, 64), depths=(1, 1, 1, 1))


def backbone_of(name, **kwargs):
    arch = ARCHS[name]
    family, prefix = ("PVT", "pvt_") if arch.version == 1 else ("PVTv2", "pvt_v2_")
    return dict(type=f"pvt_mm.{family}", arch=name.removeprefix(prefix), **kwargs)


def build(name, num_classes=1000, **kwargs):
    model = dict(type="pvt_mm.PVTClassifier", backbone=backbone_of(name), num_classes=num_classes)
    return MODELS.build({**model, **kwargs}).eval()


@pytest.mark.parametrize("name", ARCHS)
def test_state_dict_has_the_names_and_shapes_of_the_release(name):
    with torch.device("meta"):
        model = build(name)
    found = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert found == STATE_DICTS[name]["classification"]


@torch.no_grad()
def expected_logits(name, state, image):
    """Logits by the oracle, which shares no code with the package."""
    arch = ARCHS[name]
    if arch.version == 2:
        last = reference.features(state, arch, image)[-1]
        return reference.linear(last.flatten(2).mean(2), state, "head")
    x = image
    for stage in (1, 2, 3):
        x = reference.stage_of(state, arch, x, stage, 224)
    x = torch.nn.functional.conv2d(
        x, state["patch_embed4.proj.weight"], state["patch_embed4.proj.bias"], 2
    )
    b, c, h, w = x.shape
    t = reference.layer_norm(
        x.reshape(b, c, h * w).permute(0, 2, 1), state, "patch_embed4.norm", 1e-5
    )
    embed = state["pos_embed4"]
    t = t + reference.resize(embed[:, 1:], 7, h, w)
    t = torch.cat([(state["cls_token"] + embed[:, :1]).expand(b, 1, c), t], dim=1)
    for index in range(arch.depths[3]):
        block = f"block4.{index}"
        normed = reference.layer_norm(t, state, f"{block}.norm1", 1e-6)
        t = t + reference.attention(normed[:, :], 1, h * w + 1, state, f"{block}.attn", 8, 1, False)
        normed = reference.layer_norm(t, state, f"{block}.norm2", 1e-6)
        t = t + reference.mlp(normed, h, w, state, f"{block}.mlp", arch)
    return reference.linear(reference.layer_norm(t[:, 0], state, "norm", 1e-6), state, "head")


@pytest.mark.parametrize("size", [(224, 224), (96, 130)])
@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_logits_equal_the_oracles(name, size):
    state = official_state_dict(name)
    model = build(name)
    model.load_state_dict(state, strict=True)
    image = procedural_image(*size, batch=2)
    with torch.no_grad():
        logits = model(image)
    expected = expected_logits(name, state, image)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", ["PVT", "PVTv2"])
@pytest.mark.parametrize("with_cp", [False, True])
def test_training_gives_every_parameter_a_gradient(kind, with_cp):
    backbone = dict(type=f"pvt_mm.{kind}", arch=TINY_V1, drop_path_rate=0.1, with_cp=with_cp)
    model = PVTClassifier(backbone, num_classes=3, label_smoothing=0.1)
    model.init_weights()
    model.train()
    torch.manual_seed(0)
    losses = model(torch.randn(4, 3, 256, 256), torch.tensor([0, 1, 2, 1]), mode="loss")
    losses["loss"].backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_loss_is_the_mean_negative_log_likelihood_of_smoothed_targets():
    model = PVTClassifier(backbone_of("pvt_v2_b0"), num_classes=4, label_smoothing=0.2).eval()
    images, labels = procedural_image(64, 64, batch=2), torch.tensor([2, 0])
    with torch.no_grad():
        log_p = model(images).log_softmax(1)
        target = torch.full((2, 4), 0.05)
        target[0, 2] = target[1, 0] = 0.85
        expected = -(target * log_p).sum(1).mean()
        by_index = model(images, labels, mode="loss")["loss"]
        one_hot = torch.nn.functional.one_hot(labels, 4).float()
        by_probability = model(images, one_hot, mode="loss")["loss"]
    torch.testing.assert_close(by_index, expected)
    torch.testing.assert_close(by_probability, expected)


def test_predictions_carry_scores_labels_and_paths():
    model = build("pvt_v2_b0", num_classes=4)
    images = procedural_image(64, 64, batch=2)
    first, second = model(images, torch.tensor([3, 1]), ["a.png", "b.png"], mode="predict")
    assert first["pred_scores"].sum().item() == pytest.approx(1)
    assert first["pred_label"] == model(images)[0].argmax()
    assert (first["gt_label"], second["gt_label"]) == (3, 1)
    assert (first["img_path"], second["img_path"]) == ("a.png", "b.png")
    assert "gt_label" not in model(images, mode="predict")[0]


def test_a_checkpoint_of_ours_is_a_backbones_pretrained_weights(tmp_path):
    model = build("pvt_tiny", num_classes=7)
    model.init_weights()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "classifier.pth")
    backbone = PVT("tiny")
    load_pretrained(backbone, str(tmp_path / "classifier.pth"))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0"])
def test_init_cfg_loads_a_release_whole(tmp_path, name):
    state = official_state_dict(name)
    torch.save(state, tmp_path / "release.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "release.pth"))
    model = build(name, init_cfg=init_cfg)
    model.init_weights()
    assert set(model.state_dict()) == set(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_init_cfg_leaves_out_a_head_of_other_classes(tmp_path):
    state = official_state_dict("pvt_tiny")
    torch.save(state, tmp_path / "release.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "release.pth"))
    model = build("pvt_tiny", num_classes=5, init_cfg=init_cfg)
    model.init_weights()
    assert torch.equal(model.cls_token, state["cls_token"])
    assert torch.equal(model.norm.weight, state["norm.weight"])
    assert model.head.weight.shape == (5, 512)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    "lost", ["cls_token", "norm.bias", "head.weight", "block4.1.attn.q.weight"]
)
def test_loading_is_strict(tmp_path, lost):
    state = official_state_dict("pvt_tiny")
    del state[lost]
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=lost):
        load_pretrained(build("pvt_tiny"), str(tmp_path / "half.pth"))
    with pytest.raises(RuntimeError, match=lost):
        build("pvt_tiny").load_state_dict(state)


def test_state_dict_survives_copying_and_wrapping():
    model = build("pvt_tiny", num_classes=3)
    wrapped = torch.nn.Sequential(copy.deepcopy(model))
    keys = list(wrapped.state_dict())
    assert keys == [f"0.{key}" for key in model.state_dict()]
    torch.nn.init.ones_(model.cls_token)
    wrapped.load_state_dict({f"0.{key}": value for key, value in model.state_dict().items()})
    assert torch.equal(wrapped[0].cls_token, model.cls_token)


MISTAKES = {
    "backbone": (dict(backbone=dict(type="Linear")), Exception, "Linear"),
    "stages": (
        dict(backbone=backbone_of("pvt_v2_b0", out_indices=(2, 3))),
        ValueError,
        "out_indices",
    ),
    "reduction": (
        dict(backbone=dict(type="pvt_mm.PVT", arch=dict(TINY_V1, sr_ratios=(8, 4, 2, 2)))),
        ValueError,
        "sr_ratios",
    ),
    "classes": (dict(num_classes=0), ValueError, "num_classes"),
    "smoothing": (dict(label_smoothing=1.0), ValueError, "label_smoothing"),
    "init_cfg": (dict(init_cfg=dict(type="Normal")), ValueError, "Pretrained"),
}


@pytest.mark.parametrize(("change", "kind", "named"), MISTAKES.values(), ids=MISTAKES)
def test_mistaken_arguments(change, kind, named):
    with pytest.raises(kind, match=named):
        PVTClassifier(**{"backbone": backbone_of("pvt_v2_b0"), **change})


def test_forward_refuses_unknown_modes_and_missing_labels():
    model = build("pvt_v2_b0", num_classes=3)
    with pytest.raises(ValueError, match="mode must be"):
        model(torch.zeros(1, 3, 32, 32), mode="train")
    with pytest.raises(ValueError, match="needs labels"):
        model(torch.zeros(1, 3, 32, 32), mode="loss")


def test_accuracy():
    metric = TopKAccuracy(topk=(1, 2))
    scores = [[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.4, 0.4, 0.2], [float("nan")] * 3]
    labels = [1, 2, 0, 0]  # best, second, tied for best, broken
    metric.process(
        None,
        [
            dict(pred_scores=torch.tensor(s), gt_label=label)
            for s, label in zip(scores, labels, strict=True)
        ],
    )
    assert metric.evaluate(4) == {"accuracy/top1": 25.0, "accuracy/top2": 75.0}


def test_class_names():
    names = imagenet_classes()
    assert len(names) == 1000
    # Known outputs of every ImageNet classifier.
    assert names[0] == "tench, Tinca tinca"
    assert names[207] == "golden retriever"
    assert names[281].startswith("tabby")
    assert names[999].startswith("toilet tissue")
