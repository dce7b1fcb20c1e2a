"""Files that are not the wanted weights: one line that names the file and what it looks to be."""

import pytest
import torch
from procedural import STATE_DICTS

from pvt_mm import PVT, PVTv2
from pvt_mm.checkpoints import CheckpointError, load_pretrained

WIDE, NARROW = (64, 128, 320, 512), (32, 64, 160, 256)


def release(name):
    shapes = STATE_DICTS[name]["classification"]
    return {key: torch.tensor(0.5).expand(shape) for key, shape in shapes.items()}


def of_arch(dims, depths, mlp_ratios=(8, 8, 4, 4), linear_sra=False):
    arch = {"embed_dims": dims, "depths": depths, "mlp_ratios": mlp_ratios}
    with torch.device("meta"):
        model = PVTv2(arch | {"linear_sra": linear_sra})
    return {key: torch.tensor(0.5).expand(value.shape) for key, value in model.state_dict().items()}


def changed(**values):
    return release("pvt_v2_b0") | {key.replace("__", "."): value for key, value in values.items()}


def resnet(depths):
    keys = [f"layer{i + 1}.{b}.conv1.weight" for i, n in enumerate(depths) for b in range(n)]
    return {key: torch.ones(1) for key in ["conv1.weight", *keys, "fc.bias"]}


def one(key):
    return {key: torch.ones(1), "other": torch.ones(1)}


STATES = {
    "pvt of another size": (release("pvt_v2_b1"), "does not fit pvt_v2_b0 .*looks like pvt_v2_b1"),
    "pvt v1": (release("pvt_tiny"), "does not fit pvt_v2_b0 .*looks like pvt_tiny"),
    "linear sra": (release("pvt_v2_b2_li"), "looks like pvt_v2_b2_li"),
    "nearly b2": (
        of_arch(WIDE, (3, 4, 6, 2)),
        r"PVT v2 with embed_dims=\(64, 128, 320, 512\) and depths=\(3, 4, 6, 2\); the closest "
        r"release is pvt_v2_b2\): ",
    ),
    "nearly b5": (of_arch(WIDE, (3, 6, 38, 3), (4, 4, 4, 5)), r"closest release is pvt_v2_b5\): "),
    "mit_b0": (of_arch(NARROW, (2, 2, 2, 2), (4, 4, 4, 4)), "looks like a MiT, SegFormer's"),
    "resnet-50": (resnet((3, 4, 6, 3)), "holds no PVT: .*a ResNet-34 or ResNet-50 .*mmdet.ResNet"),
    "resnet-101": ({"state_dict": resnet((3, 4, 23, 3))}, "holds no PVT: .*a ResNet-101 "),
    "swin": (one("layers.0.blocks.0.attn.relative_position_bias_table"), "a Swin"),
    "swin of mmdet": (
        one("backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"),
        "a Swin",
    ),
    "convnext": (one("downsample_layers.0.0.weight"), "a ConvNeXt"),
    "vit": (one("blocks.0.attn.qkv.weight"), "a ViT"),
    "segformer": (one("segformer.encoder.patch_embeddings.0.proj.weight"), "transformers' SegF"),
    "unknown": (one("a.weight"), "holds no PVT: it is of another network; .*for example a.weight"),
    "ints": (
        changed(norm4__bias=torch.ones(256, dtype=torch.int32)),
        r"not floating point \(1\): norm4.bias torch.int32",
    ),
    "quantized": (
        {key: value.to(torch.int8) for key, value in release("pvt_v2_b0").items()},
        r"not floating point \(176\)",
    ),
    "nan": (
        changed(norm4__bias=torch.full((256,), float("nan"))),
        r"values that are not finite \(1\): norm4.bias; the training that wrote it has diverged",
    ),
    "infinite": (changed(norm4__bias=torch.full((256,), float("inf"))), "not finite .1.: norm4"),
}


@pytest.mark.parametrize("name", STATES)
def test_other_weights(tmp_path, name):
    state, message = STATES[name]
    torch.save(state, tmp_path / "a.pth")
    backbone = PVTv2("b0")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained(backbone, str(tmp_path / "a.pth"))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a.pth'}: ") and "\n" not in text
    assert all(torch.equal(before[key], v) for key, v in backbone.state_dict().items())


def truncated(path):
    torch.save(release("pvt_v2_b0"), path)
    content = path.read_bytes()
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html><title>404</title>", "a web page, not a checkpoint: fetch the file itself"),
        (truncated, "truncated or damaged: delete it and fetch it again"),
        (b"\x89PNG\r\n\x1a\n", "no checkpoint .it begins with"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content(path) if callable(content) else content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained(PVTv2("b0"), str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_of_an_unknown_size_only_what_differs_is_said(tmp_path):
    state = of_arch(NARROW, (2, 2, 2, 2), linear_sra=True)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="closest release is pvt_v2_b0"):
        load_pretrained(PVTv2("b1"), str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="does not fit pvt_small .*closest"):
        load_pretrained(PVT("small"), str(tmp_path / "a.pth"))
