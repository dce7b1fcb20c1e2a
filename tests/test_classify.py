"""tools/classify.py: five lines for an image, one for what is wrong, exit code 2 at the end."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from procedural import STATE_DICTS, official_state_dict, procedural_tensor

from pvt_mm.backbones import ARCHS
from pvt_mm.checkpoints import CheckpointError
from pvt_mm.classification import PVTClassifier, imagenet_classes
from pvt_mm.classification.tool import classify, load_classifier, main
from pvt_mm.classification.transforms import CenterCrop, read_rgb
from pvt_mm.errors import UserError

TOOL = Path(__file__).parents[1] / "tools" / "classify.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, two that are none, and a release."""
    folder = tmp_path_factory.mktemp("classify")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    Image.fromarray(pixels[:, :, 0]).save(folder / "grey.jpg")
    (folder / "text.jpg").write_text("no image")
    (folder / "half.png").write_bytes((folder / "one.png").read_bytes()[:900])
    torch.save(official_state_dict("pvt_v2_b0"), folder / "pvt_v2_b0.pth")
    return folder


def expected_top(model, path):
    """Indices and probabilities, from pixels prepared by hand."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    image = image.resize([int(256 * side / short) for side in image.size], Image.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    x = torch.from_numpy(np.asarray(image)[top : top + 224, left : left + 224].copy())
    x = (x.float() - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
        [58.395, 57.12, 57.375]
    )
    with torch.no_grad():
        return model(x.permute(2, 0, 1)[None]).softmax(1)[0].topk(5)


def test_command_line(folder):
    images = ["one.png", "text.jpg", "grey.jpg", "half.png", "none.png", "."]
    command = [sys.executable, str(TOOL), *images, "--weights", "pvt_v2_b0.pth", "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [image, str(rank)] for image in ("one.png", "grey.jpg") for rank in range(1, 6)
    ]

    model = PVTClassifier(dict(type="pvt_mm.PVTv2", arch="b0")).eval()
    model.load_state_dict(official_state_dict("pvt_v2_b0"))
    for image, block in (("one.png", lines[:5]), ("grey.jpg", lines[5:])):
        values, indices = expected_top(model, folder / image)
        for line, value, index in zip(block, values, indices, strict=True):
            _, _, probability, name = line.split(maxsplit=3)
            assert float(probability.rstrip("%")) == pytest.approx(100 * value.item(), abs=0.06)
            assert name == imagenet_classes()[index]

    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    for error, named in zip(
        errors, ["text.jpg", "half.png", "none.png", ". ", "4 of 6"], strict=True
    ):
        assert named in error
    assert "loaded all 178 tensors from pvt_v2_b0.pth" in done.stderr


def test_sound_images_end_with_code_0(folder, capsys):
    weights = str(folder / "pvt_v2_b0.pth")
    assert main([str(folder / "one.png"), "--weights", weights, "--size", "96"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize("name", ARCHS)
def test_every_release_is_recognised(name, tmp_path, monkeypatch):
    """By shapes alone: the weights are all zero, and the network is not built."""
    shapes = STATE_DICTS[name]["classification"]
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    built = []

    class Stop(Exception):
        pass

    def stop(backbone, num_classes):
        built.append((backbone, num_classes))
        raise Stop

    where = "pvt_mm.classification.tool."
    monkeypatch.setattr(f"{where}read_once", lambda weights: state)
    monkeypatch.setattr(f"{where}PVTClassifier", stop)
    with pytest.raises(Stop):
        load_classifier("release.pth")
    family = "PVT" if ARCHS[name].version == 1 else "PVTv2"
    arch = name.split("_", 1 if ARCHS[name].version == 1 else 2)[-1]
    assert built == [(dict(type=f"pvt_mm.{family}", arch=arch), 1000)]


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (None, ["class 0", "class 1", "class 2"]),
        (dict(dataset_meta=dict(classes=("cat", "dog", "owl"))), ["cat", "dog", "owl"]),
        (dict(dataset_meta=dict(classes=("cat",))), ["class 0", "class 1", "class 2"]),
    ],
)
def test_a_head_of_other_classes(folder, tmp_path, meta, expected):
    state = official_state_dict("pvt_v2_b0")
    for key in ("head.weight", "head.bias"):
        state[key] = procedural_tensor(key, (3, *state[key].shape[1:]))
    torch.save(dict(state_dict=state, meta=meta or {}), tmp_path / "three.pth")
    model, names = load_classifier(str(tmp_path / "three.pth"))
    assert list(names) == expected
    guesses = classify(model, names, folder / "one.png")
    assert sorted(guess.index for guess in guesses) == [0, 1, 2]
    assert sum(guess.probability for guess in guesses) == pytest.approx(1, abs=1e-5)
    assert [expected[guess.index] for guess in guesses] == [guess.name for guess in guesses]


def without_head(state):
    return {key: value for key, value in state.items() if not key.startswith("head.")}


def of_another_depth(state):
    return {key: value for key, value in state.items() if not key.startswith("block4.1.")}


def broken(state):
    return {**state, "head.bias": torch.full_like(state["head.bias"], float("nan"))}


FAULTS = {
    "no head": (without_head, [], "no classifier's head"),
    "own architecture": (of_another_depth, [], "no released model"),
    "NaN": (broken, [], "head.bias"),
    "other arch": (dict, ["--arch", "pvt_v2_b1"], "does not fit pvt_v2_b1"),
    "unknown arch": (dict, ["--arch", "b1"], "pvt_v2_b1"),
    "size": (dict, ["--size", "16"], "--size must be at least 32"),
    "device": (dict, ["--device", "gpu"], "--device gpu"),
}


@pytest.mark.parametrize(("change", "options", "named"), FAULTS.values(), ids=FAULTS)
def test_faults_are_one_line(folder, tmp_path, capsys, change, options, named):
    torch.save(change(official_state_dict("pvt_v2_b0")), tmp_path / "weights.pth")
    weights = ["--weights", str(tmp_path / "weights.pth")]
    assert main([str(folder / "one.png"), *weights, *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert named in line


def test_errors_have_types():
    with pytest.raises(UserError, match="unknown"):
        load_classifier("none.pth", arch="b0")
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        load_classifier("none.pth")


@pytest.mark.parametrize(
    ("size", "crop", "ratio"),
    [((500, 333), 224, 0.875), ((31, 400), 64, 0.875), ((224, 224), 224, 1.0), ((97, 50), 33, 0.9)],
)
def test_centre_crop_has_its_size(size, crop, ratio):
    assert CenterCrop(crop, ratio).crop(Image.new("RGB", size)).size == (crop, crop)


def test_palette_and_transparent_images_are_read_as_rgb(tmp_path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 128)).save(tmp_path / "a.png")
    Image.new("P", (4, 4)).save(tmp_path / "b.gif")
    assert read_rgb(tmp_path / "a.png").getpixel((0, 0)) == (10, 20, 30)
    assert read_rgb(tmp_path / "b.gif").mode == "RGB"
