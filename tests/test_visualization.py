"""Pictures: what attention looks at, curves of trainings, samples behind the pipeline."""

import json
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from recipes import CONFIGS

from pvt_mm.backbones import ARCHS
from pvt_mm.data import check_dataset
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.visualization import attention, browse, curves


@pytest.fixture(scope="module")
def backbone(request):
    """The backbone of that name, with random weights."""
    torch.manual_seed(0)
    return MODELS.build(ARCHS[request.param].config).eval()


@pytest.mark.parametrize("block", [0, -1])
@pytest.mark.parametrize(
    ("backbone", "name"), zip(ARCHS, ARCHS, strict=True), indirect=["backbone"], ids=ARCHS
)
def test_attention_is_what_the_network_computes(backbone, name, block):
    """Values weighted by the maps, and projected, are what the module gave for that token."""
    x, y = 70, 37
    expected = []

    def remember(module, inputs, output):
        tokens, hw = inputs
        value = module.kv(module.reduce(tokens, hw)).chunk(2, dim=2)[1]
        expected.append((module, value[0].clone(), hw, output[0].clone()))

    with ExitStack() as hooks:
        for stage in range(1, 5):
            attn = getattr(backbone, f"block{stage}")[block].attn
            hooks.enter_context(attn.register_forward_hook(remember))
        torch.manual_seed(0)
        maps = attention.attention_maps(backbone, torch.rand(1, 3, 64, 96), (x, y), block)
    assert [len(stage.weights) for stage in maps] == list(ARCHS[name].num_heads)
    for index, (module, value, hw, output) in enumerate(expected):
        stage, stride = maps[index], 4 * 2**index
        token = (y // stride) * hw[1] + x // stride
        heads = [
            weights.flatten() @ part
            for weights, part in zip(
                stage.weights, value.chunk(module.num_heads, dim=1), strict=True
            )
        ]
        with torch.no_grad():
            torch.testing.assert_close(module.proj(torch.cat(heads)), output[token])
        assert stage.token == (x // stride * stride, y // stride * stride, stride)
        reduction = 1 if ARCHS[name].linear_sra else ARCHS[name].sr_ratios[index]
        assert stage.area == tuple(side // reduction * reduction * stride for side in hw)


def test_attention_picture_of_a_detectors_checkpoint(tmp_path):
    backbone = MODELS.build(ARCHS["pvt_v2_b0"].config)
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((90, 120, 3), np.uint8))
    config = str(CONFIGS / "retinanet_pvt_v2_b0_fpn_1x_coco.py")
    command = [config, str(tmp_path / "image.png"), "--weights", str(tmp_path / "detector.pth")]
    out = tmp_path / "new" / "attention.png"
    assert attention.main([*command, "--point", "119", "89", "--out", str(out)]) == 0
    height, width = cv2.imread(str(out)).shape[:2]
    assert width > 9 * 100 and height > 4 * 100  # nine columns, four rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pvt_v2_b9", "{image}"], "pvt_v2_b9 is neither a config nor a model; models are"),
        (["{config}", "{image}"], "--weights: name the checkpoint"),
        (["{config}", "absent.png"], "image absent.png not found"),
        (["{config}", "{text}"], "cannot be read as an image"),
        (["pvt_v2_b0", "{image}", "--point", "120", "0"], "is outside the image of 120x90"),
        (["pvt_v2_b0", "{image}", "--max-size", "40"], "is too small; PVT needs 32 pixels"),
        (["pvt_v2_b0", "{image}", "--weights", "{b0}", "--block", "2"], "expected -2 to 1"),
    ],
)
def test_attention_says_what_is_wrong(tmp_path, capsys, arguments, message):
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((90, 120, 3), np.uint8))
    (tmp_path / "text.png").write_text("no image")
    torch.save(MODELS.build(ARCHS["pvt_v2_b0"].config).state_dict(), tmp_path / "b0.pth")
    places = {
        "image": tmp_path / "image.png",
        "text": tmp_path / "text.png",
        "b0": tmp_path / "b0.pth",
        "config": CONFIGS / "retinanet_pvt_v2_b0_fpn_1x_coco.py",
    }
    arguments = [argument.format(**places) for argument in arguments]
    assert attention.main([*arguments, "--out", str(tmp_path / "out.png")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def write_scalars(work_dir, start, lines):
    folder = work_dir / start / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("\n".join(lines))


@pytest.fixture
def resumed(tmp_path):
    """A work directory of a run that was killed while it wrote, and resumed."""
    work_dir = tmp_path / "mine"
    train = [json.dumps(dict(lr=0.1, loss=9.0 - i, time=1, iter=i, step=i)) for i in (1, 2, 3)]
    write_scalars(work_dir, "20260101_000000", [*train, '{"lr": 0.1, "lo'])
    later = [json.dumps(dict(lr=0.1, loss=5.5, iter=3, step=3)), json.dumps(dict(mIoU=4, step=3))]
    write_scalars(work_dir, "20260102_000000", later)
    return work_dir


def test_a_resumed_run_is_one_curve(resumed):
    run = curves.read_run(resumed)
    assert run.name == "mine" and not run.by_epoch
    assert run.training == {"lr": {1: 0.1, 2: 0.1, 3: 0.1}, "loss": {1: 8.0, 2: 7.0, 3: 5.5}}
    assert run.validation == {"mIoU": {3: 4}}


def test_panels_and_their_units(resumed, tmp_path):
    by_epoch = tmp_path / "other"
    lines = [dict(loss=1.0, lr=1, iter=1, epoch=1, step=1), {"coco/bbox_mAP": 0.5, "step": 1}]
    write_scalars(by_epoch, "20260101_000000", [json.dumps(line) for line in lines])
    figure = curves.plot_runs([curves.read_run(resumed), curves.read_run(by_epoch)])
    units = {panel.get_title(): panel.get_xlabel() for panel in figure.axes}
    assert units == {
        "loss": "iteration",
        "lr": "iteration",
        "coco/bbox_mAP": "epoch",
        "mIoU": "iteration",
    }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine", "other"]


def test_curves_from_the_command_line(resumed, tmp_path, capsys):
    out = tmp_path / "plots" / "curves.png"
    assert curves.main([str(resumed), "--keys", "loss", "--out", str(out)]) == 0
    assert cv2.imread(str(out)) is not None
    assert curves.main([str(resumed), "--keys", "acc", "--out", str(out)]) == 2
    assert "--keys acc: not logged; there are lr, loss, mIoU" in capsys.readouterr().err
    assert curves.main([str(tmp_path)]) == 2
    assert "no */vis_data/scalars.json in it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    make_demo_data(root, DemoSpec(train=4, val=2))
    return root


@pytest.mark.parametrize(
    ("config", "split"),
    [
        ("retinanet_pvt_v2_b0_fpn_demo", "train"),
        ("mask_rcnn_pvt_v2_b0_fpn_demo", "train"),
        ("mask_rcnn_pvt_v2_b0_fpn_demo", "val"),
        ("fpn_pvt_v2_b0_demo", "train"),
    ],
)
def test_samples_are_drawn_as_the_pipeline_leaves_them(
    demo, tmp_path, monkeypatch, capsys, config, split
):
    monkeypatch.setenv("DEMO_ROOT", str(demo))
    path = str(CONFIGS / f"{config}.py")
    command = [path, "--split", split, "--out-dir", str(tmp_path), "--count", "3"]
    assert browse.main(command) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == (3 if split == "train" else 2) and names[0].startswith("0000_")
    drawn = cv2.imread(str(tmp_path / names[0]))
    assert drawn.shape == (512, 512, 3)  # names on 128 pixels could not be read
    originals = [cv2.imread(str(p)) for p in sorted(demo.glob(f"images/{split}*/*.png"))]
    # Something is drawn: it is none of the images, and none mirrored.
    small = cv2.resize(drawn, (128, 128), interpolation=cv2.INTER_AREA).astype(float)
    assert all(np.abs(small - y).mean() > 3 for x in originals for y in (x, x[:, ::-1]))


@pytest.mark.parametrize("side", [64, 128])
def test_boxes_loaded_after_resizing_are_drawn_where_they_are(
    demo, tmp_path, monkeypatch, capsys, side
):
    """mm's test pipelines resize first; the annotation file says where the frames belong."""
    monkeypatch.setenv("DEMO_ROOT", str(demo))
    config = str(CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py")
    options = ["--cfg-options", f"val_dataloader.dataset.pipeline.1.scale=({side},{side})"]
    command = [config, "--split", "val", "--out-dir", str(tmp_path), *options]
    assert browse.main(command) == 0
    content = json.loads(next(demo.glob("annotations/*val*.json")).read_text())
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    found = []
    for annotation in content["annotations"]:
        picture = cv2.imread(str(next(tmp_path.glob(f"*_{names[annotation['image_id']]}.png"))))
        x, y, width, height = (4 * value for value in annotation["bbox"])
        for column in (x, x + width - 1):  # one colour, down the frame's side
            line = picture[int(y + height / 3) : int(y + height / 2), min(round(column), 511)]
            found.append(np.ptp(line.astype(int), axis=0).max() < 3)
    assert np.mean(found) > 0.8


def test_the_check_draws_what_the_network_will_see(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEMO_ROOT", str(demo))
    out = tmp_path / "folder" / "grid.png"
    config = str(CONFIGS / "fpn_pvt_v2_b0_demo.py")
    assert check_dataset.main([config, "--workers", "0", "--show", str(out)]) == 0
    assert f"drawn in {out}" in capsys.readouterr().out
    height, width = cv2.imread(str(out)).shape[:2]
    assert width == 2 * height  # four samples of each of two data sets, the smaller one filled up
    assert check_dataset.main([config, "--workers", "0", "--show", str(demo)]) == 2
    assert f"--show {demo} cannot be written" in capsys.readouterr().err


def test_a_sample_that_fails_is_shown_as_its_reason(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEMO_ROOT", str(demo))
    config = str(CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py")
    pictures = []
    for loader in ("LoadImageFromFile", "LoadImageFromNDArray"):
        pictures.append(tmp_path / f"{loader}.png")
        command = [config, "--workers", "0", "--split", "train", "--show", str(pictures[-1])]
        options = ["--cfg-options", f"train_dataloader.dataset.pipeline.0.type={loader}"]
        check_dataset.main([*command, *options])
    good, bad = (cv2.imread(str(path)) for path in pictures)
    assert good.shape == bad.shape and (bad == 255).mean() > 0.9 > (good == 255).mean()


def test_browsing_says_what_is_wrong(capsys, tmp_path):
    config = str(CONFIGS / "pvt_small_in1k.py")
    assert browse.main([config, "--out-dir", str(tmp_path)]) == 2
    assert "classification has no boxes" in capsys.readouterr().err
    config = str(CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py")
    options = ["--cfg-options", "train_dataloader=None"]
    assert browse.main([config, "--out-dir", str(tmp_path), *options]) == 2
    assert "the config has no train_dataloader" in capsys.readouterr().err
