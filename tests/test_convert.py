"""tools/convert_checkpoint.py: every direction, bit for bit; what it refuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pvt_mm import PVT, PVTv2
from pvt_mm.checkpoints import load_pretrained
from pvt_mm.conversion.tool import main

ROOT = Path(__file__).resolve().parents[1]
ARCH = {"embed_dims": (8, 16, 24, 32), "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
CLASSIFIER = {1: {"cls_token": (1, 1, 32), "norm.weight": (32,), "norm.bias": (32,)}, 2: {}}


def classifier(version, linear_sra=False, **kwargs):
    """A small whole classifier under the official names; every number is another."""
    torch.manual_seed(version)
    model = (
        PVT(ARCH, pretrain_img_size=64)
        if version == 1
        else PVTv2(ARCH | {"linear_sra": linear_sra})
    )
    shapes = {key: value.shape for key, value in model.state_dict().items()} | CLASSIFIER[version]
    shapes |= {"head.weight": (10, 32), "head.bias": (10,)}
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def save(path, state):
    torch.save(state, path)
    return str(path)


def read(path):
    if path.suffix == ".safetensors":
        return pytest.importorskip("safetensors.torch").load_file(path)
    return torch.load(path, weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a
    )


# A few keys of each code base as literals: what its own state dict holds.
PINNED = {
    ("timm", 2): {
        "patch_embed.proj.weight": "patch_embed1.proj.weight",
        "stages.1.downsample.norm.bias": "patch_embed2.norm.bias",
        "stages.1.blocks.1.attn.kv.weight": "block2.1.attn.kv.weight",
        "stages.0.blocks.0.mlp.dwconv.weight": "block1.0.mlp.dwconv.dwconv.weight",
        "stages.3.norm.weight": "norm4.weight",
        "head.bias": "head.bias",
    },
    ("transformers", 1): {
        "pvt.encoder.patch_embeddings.3.position_embeddings": "pos_embed4",
        "pvt.encoder.patch_embeddings.3.cls_token": "cls_token",
        "pvt.encoder.block.1.1.attention.self.sequence_reduction.weight": "block2.1.attn.sr.weight",
        "pvt.encoder.block.0.0.attention.output.dense.bias": "block1.0.attn.proj.bias",
        "pvt.encoder.layer_norm.weight": "norm.weight",
        "classifier.weight": "head.weight",
    },
    ("transformers", 2): {
        "pvt_v2.encoder.layers.0.patch_embedding.layer_norm.bias": "patch_embed1.norm.bias",
        "pvt_v2.encoder.layers.1.blocks.1.mlp.dense2.weight": "block2.1.mlp.fc2.weight",
        "pvt_v2.encoder.layers.3.layer_norm.weight": "norm4.weight",
        "classifier.bias": "head.bias",
    },
    ("mmdet", 1): {
        "layers.2.1.0.pos_embed": "pos_embed3",
        "layers.0.0.projection.weight": "patch_embed1.proj.weight",
        "layers.1.1.2.attn.attn.out_proj.weight": "block2.1.attn.proj.weight",
        "layers.0.1.1.ffn.layers.3.bias": "block1.0.mlp.fc2.bias",
    },
    ("mmdet", 2): {
        "layers.1.1.1.attn.sr.weight": "block2.1.attn.sr.weight",
        "layers.0.1.0.ffn.layers.1.weight": "block1.0.mlp.dwconv.dwconv.weight",
        "layers.0.1.0.ffn.layers.4.bias": "block1.0.mlp.fc2.bias",
        "layers.3.2.weight": "norm4.weight",
    },
}


@pytest.mark.parametrize(("to", "version"), PINNED)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(tmp_path, capsys, to, version, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    state = classifier(version)
    a = save(tmp_path / "a.pth", state)
    there, back = tmp_path / f"there{suffix}", tmp_path / f"back{suffix}"
    assert main([a, str(there), "--to", to]) == 0
    assert main([str(there), str(back), "--to", "pvt_mm"]) == 0
    theirs, again = read(there), read(back)
    for key, source in PINNED[to, version].items():
        assert torch.equal(theirs[key], state[source]), key
    if to == "mmdet":  # a backbone of a detection library has neither head nor class token
        state = {k: v for k, v in state.items() if not k.startswith(("head.", "norm.", "cls"))}
        if version == 1:
            state["pos_embed4"][:, 0] = 0
    assert equal(again, state)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{a}: layout official, model a PVT of no released size"
    assert ("head.weight" in lines[1]) == (to == "mmdet")
    assert lines[-1] == f"{back}: layout official, {len(state)} tensors"
    assert f"{there}: layout {to}" in lines[1 + (to == "mmdet")]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.pth", there.name, back.name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_stay(tmp_path, dtype):
    state = {key: value.to(dtype) for key, value in classifier(2).items()}
    a, there, back = (str(tmp_path / f"{name}.pth") for name in "abc")
    save(a, state)
    assert main([a, there, "--to", "transformers"]) == 0
    assert main([there, back, "--to", "pvt_mm"]) == 0
    assert equal(read(Path(back)), state)


def test_in_projection_is_query_key_value(tmp_path):
    state = classifier(2, linear_sra=True)
    a, b = save(tmp_path / "a.pth", state), tmp_path / "b.pth"
    assert main([a, str(b), "--to", "transformers"]) == 0
    theirs, block = read(b), "pvt_v2.encoder.layers.2.blocks.0.attention"
    kv = state["block3.0.attn.kv.weight"]
    assert torch.equal(theirs[f"{block}.key.weight"], kv[:24])
    assert torch.equal(theirs[f"{block}.value.weight"], kv[24:])
    a, b = save(tmp_path / "a.pth", classifier(2)), tmp_path / "c.pth"
    assert main([a, str(b), "--to", "mmdet"]) == 0
    joined = read(b)["layers.2.1.0.attn.attn.in_proj_bias"]
    parts = [classifier(2)[f"block3.0.attn.{name}.bias"] for name in ("q", "kv")]
    assert torch.equal(joined, torch.cat(parts))


def test_detector_keeps_what_surrounds_the_backbone(tmp_path):
    state = {k: v for k, v in classifier(2).items() if not k.startswith("head.")}
    detector = {f"backbone.{key}": value for key, value in state.items()}
    detector |= {"neck.a.weight": torch.ones(2), "bbox_head.b.bias": torch.zeros(1)}
    meta = {"dataset_meta": {"classes": ("a", "b")}}
    a = save(tmp_path / "a.pth", {"state_dict": detector, "meta": meta, "optimizer": {}})
    there, back, alone = (tmp_path / f"{name}.pth" for name in ("there", "back", "alone"))
    assert main([a, str(there), "--to", "mmdet"]) == 0
    saved = read(there)
    assert saved.keys() == {"state_dict", "meta"} and saved["meta"] == meta
    assert "backbone.layers.0.2.weight" in saved["state_dict"]
    assert main([str(there), str(back), "--to", "pvt_mm"]) == 0
    assert equal(read(back)["state_dict"], detector)
    assert main([a, str(alone), "--to", "pvt_mm", "--backbone-only"]) == 0
    assert equal(read(alone)["state_dict"], state)


def test_result_loads_into_a_backbone(tmp_path):
    a, b = save(tmp_path / "a.pth", classifier(1)), tmp_path / "b.pth"
    assert main([a, str(b), "--to", "transformers"]) == 0
    backbone = PVT(ARCH, pretrain_img_size=64)
    load_pretrained(backbone, str(b))
    assert all(torch.equal(v, classifier(1)[k]) for k, v in backbone.state_dict().items())


def without(*starts):
    return lambda state: [state.pop(k) for k in list(state) if k.startswith(starts)]


def shaped(key, *shape):
    return lambda state: state.update({key: torch.ones(shape)})


@pytest.mark.parametrize(
    ("version", "to", "change", "words"),
    [
        (1, "timm", None, "timm has no PVT v1"),
        (
            2,
            "timm",
            lambda s: s.update({"block1.0.gamma": torch.ones(1)}),
            "unknown block1.0.gamma",
        ),
        (2, "mmdet", without("block2.1.attn.kv.bias"), "missing block2.1.attn.kv.bias"),
        (2, "mmdet", without("block4", "norm4"), "no whole PVT"),
        (1, "transformers", without("cls", "norm."), "needs cls_token, norm.weight, norm.bias"),
        (
            2,
            "timm",
            lambda s: s.update({"norm4.bias": torch.ones(3)}),
            r"norm4.bias has shape \(3,\), expected \(32,\)",
        ),
        (2, "timm", lambda s: s.update({"norm4.bias": 3}), "norm4.bias must be a tensor"),
        (2, "mmdet", shaped("block3.0.attn.sr.weight"), "shapes that no PVT has"),
        (2, "mmdet", shaped("patch_embed4.proj.weight", 0, 32), "shapes that no PVT has"),
        (2, "timm", shaped("block1.0.attn.sr.weight", 16, 8, 1, 0), "sr_ratios"),
    ],
)
def test_what_cannot_be_placed_is_listed(tmp_path, capsys, version, to, change, words):
    state = classifier(version)
    if change:
        change(state)
    a, b = save(tmp_path / "a.pth", state), tmp_path / "b.pth"
    assert main([a, str(b), "--to", to]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and a in error
    assert re.search(words, error), error
    assert not b.exists()


def test_surroundings_have_no_place_in_timm(tmp_path, capsys):
    state = {f"backbone.{key}": value for key, value in classifier(2).items()}
    a, b = save(tmp_path / "a.pth", state | {"neck.w": torch.ones(1)}), str(tmp_path / "b.pth")
    assert main([a, b, "--to", "timm"]) == 2
    error = capsys.readouterr().err
    assert "neck.w" in error and "--backbone-only" in error
    assert main([a, b, "--to", "timm", "--backbone-only"]) == 0
    assert "stages.0.norm.weight" in read(Path(b))


def test_an_existing_file_is_replaced_only_on_request(tmp_path, capsys):
    a, b = save(tmp_path / "a.pth", classifier(2)), tmp_path / "b.pth"
    b.write_text("mine")
    assert main([a, str(b), "--to", "timm"]) == 2
    assert "--force" in capsys.readouterr().err and b.read_text() == "mine"
    assert main([a, str(b), "--to", "timm", "--force"]) == 0
    assert "stages.0.norm.weight" in read(b)
    assert main([a, a, "--to", "timm", "--force"]) == 0  # also onto itself
    assert "stages.0.norm.weight" in read(Path(a))


@pytest.mark.parametrize(
    ("out", "words"),
    [("b.onnx", "suffix"), ("no/b.pth", "no folder"), (".", "suffix"), ("d.pth", "it is no file")],
)
def test_impossible_output(tmp_path, capsys, out, words):
    (tmp_path / "d.pth").mkdir()
    a = save(tmp_path / "a.pth", classifier(2))
    assert main([a, str(tmp_path / out), "--to", "timm", "--force"]) == 2
    assert words in capsys.readouterr().err


def test_the_tool(tmp_path):
    tool = str(ROOT / "tools" / "convert_checkpoint.py")
    a, b = save(tmp_path / "a.pth", classifier(2)), str(tmp_path / "b.pth")
    run = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, tool, a, b, "--to", "timm"], **run)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = subprocess.run([sys.executable, tool, "no.pth", "c.pth", "--to", "mmdet"], **run)
    assert done.returncode == 2 and "no.pth not found" in done.stderr
