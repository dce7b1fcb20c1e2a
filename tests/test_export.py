"""Exported files against the models they come from, and against MMDetection's own predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from torch import nn

pytest.importorskip("mmdet")
onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from mmdet.structures import DetDataSample  # noqa: E402
from PIL import Image  # noqa: E402

from pvt_mm import PVT, PVTv2  # noqa: E402
from pvt_mm.backbones import ARCHS  # noqa: E402
from pvt_mm.backbones.mlp import ConvMlp  # noqa: E402
from pvt_mm.config.loading import load_config  # noqa: E402
from pvt_mm.data.demo.scenes import CLASSES, make_scene  # noqa: E402
from pvt_mm.errors import UserError  # noqa: E402
from pvt_mm.export import (  # noqa: E402
    Exportable,
    backbone_exportable,
    export_model,
    model_exportable,
)
from pvt_mm.export import export as export_module  # noqa: E402
from pvt_mm.export.boxes import best_boxes  # noqa: E402
from pvt_mm.export.check import compare, largest_difference  # noqa: E402
from pvt_mm.export.cli import main  # noqa: E402
from pvt_mm.export.modules import MapMlp, MatrixPool  # noqa: E402
from pvt_mm.export.operators import align_rois, suppress  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RETINANET = ROOT / "configs/retinanet_pvt_v2_b0_fpn_demo.py"
MASK_RCNN = ROOT / "configs/mask_rcnn_pvt_v2_b0_fpn_demo.py"
SEMANTIC = ROOT / "configs/fpn_pvt_v2_b0_demo.py"
DIMS = (8, 16, 40, 64)
TINY = {"embed_dims": DIMS, "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
# Batch, height, width: 224 is what v1 was laid out for; the last is no multiple of anything.
SHAPES = ((1, 224, 224), (2, 96, 160), (3, 85, 107))


def tiny(version, **options):
    torch.manual_seed(0)
    model = (PVT if version == 1 else PVTv2)(TINY, **options)
    model.init_weights()
    return model.eval()


def run_onnx(path, *arguments):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
    return session.run(None, feed)


def loaded_file(path):
    """Load a file once, to be called with tensors; returns its outputs as arrays."""
    if path.suffix == ".onnx":
        return partial(run_onnx, path)
    module = torch.export.load(path).module()
    return lambda *arguments: [module(*arguments).numpy()]


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("height, width", [(1, 2), (5, 7), (7, 14), (25, 42), (13, 8), (50, 3)])
def test_pooling_by_products_is_adaptive_average_pooling(size, height, width):
    x = torch.randn(2, 6, height, width)
    pooled = MatrixPool(size)(x)
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, size), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("relu", [False, True])
def test_mlp_of_convolutions_is_the_mlp(relu):
    mlp = ConvMlp(8, 24, relu=relu).eval()
    tokens = torch.randn(2, 30, 8)
    with torch.no_grad():
        torch.testing.assert_close(MapMlp(mlp)(tokens, (5, 6)), mlp(tokens, (5, 6)))


def domains(path):
    return {node.domain for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(
    ("version", "linear", "standard"),
    [
        (1, False, False),
        (2, True, False),
        pytest.param(2, False, True, marks=pytest.mark.exhaustive),
        pytest.param(1, False, True, marks=pytest.mark.exhaustive),
        pytest.param(2, False, False, marks=pytest.mark.exhaustive),
        pytest.param(2, True, True, marks=pytest.mark.exhaustive),
    ],
)
def test_onnx_of_a_backbone_at_any_size(version, linear, standard, tmp_path):
    model = tiny(version, **({"linear_sra": True} if linear else {}))
    path = tmp_path / "backbone.onnx"
    export_model(backbone_exportable(model), path, shape=(96, 96), standard=standard)
    assert domains(path) == ({""} if standard else {"", "com.microsoft"})
    for shape in SHAPES:
        images = torch.randn(shape[0], 3, *shape[1:])
        with torch.no_grad():
            expected = model(images)
        for one, other in zip(expected, run_onnx(path, images), strict=True):
            np.testing.assert_allclose(other, one.numpy(), atol=1e-4)


def test_pt2_of_a_backbone_at_any_size(tmp_path):
    model = tiny(1)
    path = tmp_path / "backbone.pt2"
    export_model(backbone_exportable(model), path, "pt2", shape=(96, 96))
    loaded = torch.export.load(path).module()
    for shape in SHAPES:
        images = torch.randn(shape[0], 3, *shape[1:])
        with torch.no_grad():
            for one, other in zip(model(images), loaded(images), strict=True):
                torch.testing.assert_close(other, one, rtol=0, atol=1e-4)


def kind_of(arch):
    """What tells architectures apart once they are narrow and have two of many equal blocks."""
    depths = tuple(min(depth, 2) for depth in arch.depths)
    return arch.version, arch.linear_sra, depths, arch.mlp_ratios


# The last name of each kind: tracing two models of a kind shows nothing new.
KINDS = {kind_of(arch): name for name, arch in ARCHS.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("version", "linear", "depths", "mlp_ratios"), KINDS, ids=KINDS.values())
def test_pt2_of_every_kind_at_one_size(version, linear, depths, mlp_ratios, tmp_path):
    options = {"linear_sra": linear} if version == 2 else {}
    narrow = {"embed_dims": DIMS, "depths": depths, "mlp_ratios": mlp_ratios}
    model = (PVT if version == 1 else PVTv2)(narrow, **options).eval()
    path = tmp_path / "one.pt2"
    export_model(backbone_exportable(model), path, "pt2", shape=(64, 96), dynamic=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(model(images), torch.export.load(path).module()(images), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-4)


def export_operator(module, arguments, outputs, path):
    exportable = Exportable(module, "features", outputs)
    program = torch.export.export(module, arguments)
    export_module.write_onnx(program, exportable, path, 20, dynamic=False)
    return run_onnx(path, *arguments)


class Suppress(nn.Module):
    def forward(self, boxes, scores):
        return suppress(boxes, scores, 0.5, 0.2, 3)


def test_suppression_in_onnx_and_by_hand(tmp_path):
    box = [10.0, 10, 20, 20]
    boxes = torch.tensor([[box, [11.0, 10, 21, 20], [30.0, 30, 40, 40], [50.0, 50, 60, 60]]] * 2)
    scores = torch.tensor([[0.9, 0.8, 0.3, 0.1], [0.3, 0.8, 0.1, 0.9]])
    by_hand = torch.tensor([[1.0, 0, 1, 0], [0.0, 1, 0, 1]])
    torch.testing.assert_close(Suppress()(boxes, scores), by_hand)
    (found,) = export_operator(Suppress(), (boxes, scores), ("kept",), tmp_path / "nms.onnx")
    np.testing.assert_array_equal(found, by_hand.numpy())


class Align(nn.Module):
    def forward(self, fine, coarse, rois, levels):
        return align_rois([fine, coarse], rois, levels, [0.25, 0.125], 3, 0)


def test_regions_come_from_their_level_in_onnx_and_in_mmcv(tmp_path):
    # On a ramp along x a bin's mean is the ramp at its centre.
    fine = torch.arange(16.0).expand(2, 1, 16, 16).contiguous()
    coarse = 100 + torch.arange(8.0).expand(2, 1, 8, 8).contiguous()
    rois = torch.tensor([[0.0, 8, 8, 32, 32], [1.0, 16, 8, 40, 32], [1.0, 8, 8, 32, 32]])
    levels = torch.tensor([0, 1, -1])
    first = (8 + 24 * (torch.arange(3) + 0.5) / 3) * 0.25 - 0.5
    second = 100 + (16 + 24 * (torch.arange(3) + 0.5) / 3) * 0.125 - 0.5
    by_hand = torch.stack([first, second, torch.zeros(3)])[:, None, None].expand(3, 1, 3, 3)
    arguments = (fine, coarse, rois, levels)
    torch.testing.assert_close(Align()(*arguments), by_hand)
    (found,) = export_operator(Align(), arguments, ("crops",), tmp_path / "roi.onnx")
    np.testing.assert_allclose(found, by_hand.numpy(), rtol=1e-5)


def test_regions_of_channels_last_maps_are_the_same():
    fine, coarse = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)
    rois, levels = torch.tensor([[0.0, 8, 8, 32, 40], [0.0, 16, 8, 40, 32]]), torch.tensor([0, 1])
    expected = Align()(fine, coarse, rois, levels)
    maps = [one.contiguous(memory_format=torch.channels_last) for one in (fine, coarse)]
    torch.testing.assert_close(Align()(*maps, rois, levels), expected)


def test_boxes_of_other_groups_do_not_suppress():
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 3])
    scores = torch.tensor([[0.5, 0.9, 0.7]])
    cfg = {"nms": {"iou_threshold": 0.5}, "max_per_img": 4}
    for cfg["nms"]["class_agnostic"], expected in (
        (False, [0.9, 0.7, -1, -1]),
        (True, [0.9] + 3 * [-1]),
    ):
        _, found, _ = best_boxes(boxes, scores, torch.tensor([0, 0, 1]), cfg, 0.1)
        torch.testing.assert_close(found, torch.tensor([expected]))


class Convolutions(nn.Module):
    """Maps of a backbone's sizes, quicker to record: for tests of what comes after a backbone."""

    in_channels = 3

    def __init__(self):
        super().__init__()
        for stage, channels in enumerate((3, *DIMS[:-1])):
            conv = nn.Conv2d(channels, DIMS[stage], 3, stride=2 if stage else 4, padding=1)
            self.add_module(f"patch_embed{stage + 1}", conv)

    def forward(self, x):
        maps = []
        for conv in self.children():
            x = conv(x)
            maps.append(x)
        return tuple(maps)


def tiny_model(config, options=None):
    """A demo config's model: a tiny backbone, random weights, every box a detection."""
    cfg = load_config(config, options)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.arch = TINY
    cfg.model.neck.in_channels = list(DIMS)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    # Random heads see hardly a difference between places: make some, short of saturation.
    for name, parameter in model.named_parameters():
        if name.endswith(("retina_cls.weight", "rpn_cls.weight", "fc_cls.weight")):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def scenes(batch, height, width):
    pixels = np.stack([make_scene((seed,), max(height, width)).image for seed in range(batch)])
    images = torch.from_numpy(pixels[:, :height, :width]).permute(0, 3, 1, 2).float()
    return ((images - 120) / 58).contiguous()  # mmcv's RoIAlign misreads channels-last maps


def predictions(model, images, sizes):
    samples = []
    for height, width in sizes:
        meta = {"img_shape": (height, width), "ori_shape": (height, width)}
        samples.append(DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)}))
    with torch.no_grad():
        found = model.predict(images, samples, rescale=False)
    return [one.pred_instances for one in found]


def assert_same_detections(model, path, shape):
    images = scenes(*shape)
    # The images were padded by different amounts.
    sizes = torch.tensor([[shape[1] - 8 * i, shape[2] - 16 * i] for i in range(shape[0])])
    boxes, scores, labels, *_ = run_onnx(path, images, sizes)
    for image, expected in enumerate(predictions(model, images, sizes.tolist())):
        count = len(expected)
        assert count > 3
        np.testing.assert_allclose(scores[image, :count], expected.scores, atol=1e-3)
        np.testing.assert_allclose(boxes[image, :count], expected.bboxes, atol=1e-2)
        np.testing.assert_array_equal(labels[image, :count], expected.labels)
        assert (labels[image, count:] == -1).all() and not scores[image, count:].any()


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory):
    model = tiny_model(RETINANET, {"model.bbox_head.stacked_convs": 1})
    path = tmp_path_factory.mktemp("retinanet") / "model.onnx"
    entries = {
        "task": "detection",
        "classes": CLASSES,
        "mean": [120.0] * 3,
        "std": [58.0] * 3,
        "size_divisor": 32,
        "resize": [{"type": "Resize", "scale": [128, 96], "keep_ratio": True}],
    }
    exportable = model_exportable(model)
    metadata = {name: json.dumps(value) for name, value in entries.items()}
    exportable = replace(exportable, metadata=metadata)
    export_model(exportable, path, shape=(96, 128))
    return model, path


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 96, 128), (1, 128, 128)])
def test_retinanet_detects_what_mmdet_detects(retinanet, shape):
    assert_same_detections(*retinanet, shape)


@pytest.mark.slow
def test_example_draws_without_torch(retinanet, tmp_path):
    picture, image = tmp_path / "picture.png", tmp_path / "image.png"
    scene = make_scene((3,), 160).image[:120]
    Image.fromarray(scene).save(image)
    script = ROOT / "examples/onnx_inference.py"
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, script, retinanet[1], image, "--out", picture]
    done = subprocess.run(
        [*map(str, command), "--score", "0"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    name, score, *box = done.stdout.splitlines()[0].split()
    assert name in CLASSES and 0 < float(score) <= 1
    x1, y1, x2, y2 = map(float, box)
    assert 0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 120
    drawn = np.asarray(Image.open(picture), np.int32)
    assert drawn.shape == scene.shape and np.abs(drawn - scene).max() > 30


@pytest.mark.slow
@pytest.mark.parametrize("config", [RETINANET, MASK_RCNN], ids=["retinanet", "mask_rcnn"])
def test_a_detector_of_five_levels_is_recorded_for_all_sizes(config, tmp_path):
    """As the recipes for COCO have them: the smallest map of a small image is a single place."""
    if config == RETINANET:
        strides = [8, 16, 32, 64, 128]
        neck, head = {"num_outs": 5, "add_extra_convs": "on_input"}, "bbox_head"
    else:
        strides, neck, head = [4, 8, 16, 32, 64], {"num_outs": 5}, "rpn_head"
    options = {f"model.neck.{key}": value for key, value in neck.items()}
    model = tiny_model(config, {f"model.{head}.anchor_generator.strides": strides, **options})
    model.backbone = Convolutions()
    path = tmp_path / "model.onnx"
    export_model(model_exportable(model), path, shape=(64, 64))
    for shape in ((1, 64, 96), (2, 160, 224), (1, 300, 420)):
        assert_same_detections(model, path, shape)


@pytest.mark.slow
def test_mask_rcnn_detects_what_mmdet_detects(tmp_path):
    heads = {"bbox_head.num_shared_convs": 1, "mask_head.num_convs": 1}
    model = tiny_model(MASK_RCNN, {f"model.roi_head.{key}": one for key, one in heads.items()})
    path = tmp_path / "model.onnx"
    export_model(model_exportable(model), path, shape=(96, 128))
    assert_same_detections(model, path, (2, 96, 128))
    images = scenes(1, 128, 96)
    sizes = torch.tensor([[128, 96]])
    boxes, _, labels, masks = run_onnx(path, images, sizes)
    with torch.no_grad():
        feats = model.extract_feat(images)
        count = int((labels[0] >= 0).sum())
        rois = torch.cat([torch.zeros(count, 1), torch.from_numpy(boxes[0, :count])], 1)
        logits = model.roi_head._mask_forward(feats, rois)["mask_preds"].sigmoid()
    expected = logits[torch.arange(count), torch.from_numpy(labels[0, :count])]
    np.testing.assert_allclose(masks[0, :count], expected, atol=1e-3)
    assert not masks[0, count:].any()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", pytest.param("pt2", marks=pytest.mark.exhaustive)])
def test_semantic_fpn_segments_as_mmseg_does(format, tmp_path):
    pytest.importorskip("mmseg")
    from mmseg.structures import SegDataSample

    model = tiny_model(SEMANTIC)
    if format == "onnx":
        model.backbone = Convolutions()
    path = tmp_path / f"model.{format}"
    export_model(model_exportable(model), path, format, shape=(96, 128))
    run = loaded_file(path)
    for shape in ((1, 96, 128), (2, 128, 64), (1, 90, 75)):
        images = scenes(*shape)
        meta = {"img_shape": shape[1:], "ori_shape": shape[1:], "padding_size": [0] * 4}
        samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData()) for _ in images]
        with torch.no_grad():
            found = model.predict(images, samples)
        expected = torch.cat([one.pred_sem_seg.data for one in found]).numpy()
        (labels,) = run(images)
        assert len(np.unique(expected)) > 1
        assert (labels == expected).mean() > 0.999


def test_check_refuses_other_numbers(tmp_path):
    model = tiny(2)
    path = tmp_path / "one.pt2"
    exportable = backbone_exportable(model)
    export_model(exportable, path, "pt2", shape=(64, 96), dynamic=False)
    found = compare(exportable, path, "pt2", [(1, 64, 96)])
    assert found[1, 64, 96] < 1e-4
    model.norm4.bias.data += 0.1
    with pytest.raises(UserError, match=r"differs from PyTorch by 1.0e-01 at 1x64x96"):
        compare(exportable, path, "pt2", [(1, 64, 96)])


@pytest.mark.parametrize(
    ("names", "outputs", "shows"),
    [
        (("boxes", "scores", "labels"), ([[[0] * 4]], [[0.0]], [[-1]]), False),
        (("boxes", "scores", "labels"), ([[[0, 0, 5, 5]]], [[0.4]], [[2]]), True),
        (("labels",), ([[[3, 3], [3, 3]]],), False),
        (("labels",), ([[[3, 3], [3, 1]]],), True),
        (("logits",), ([[0.0, 0.0]],), True),
    ],
)
def test_agreement_on_nothing_is_no_agreement(names, outputs, shows, tmp_path):
    class Same(nn.Module):
        def forward(self, images):
            return tuple(torch.tensor(one) + 0 * images.sum().to(torch.int64) for one in outputs)

    exportable = Exportable(Same(), "", names)
    program = torch.export.export(exportable.module, (torch.zeros(1, 3, 64, 64),))
    torch.export.save(program, tmp_path / "same.pt2")
    found = compare(exportable, tmp_path / "same.pt2", "pt2", [(1, 64, 64)])
    assert found == {(1, 64, 64): 0.0 if shows else None}


def test_difference_of_nothing_and_of_other_shapes():
    nothing = [np.zeros((0, 4))]
    assert largest_difference(("boxes",), nothing, nothing) == 0
    assert largest_difference(("boxes",), nothing, [np.zeros((1, 4))]) == float("inf")
    labels = [np.array([[[0, 1], [2, 3]]])]
    assert largest_difference(("labels",), labels, [np.array([[[0, 1], [2, 0]]])]) == 0.25


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "onxx"}, "format 'onxx' is unknown; known are onnx, openvino, pt2"),
        ({"opset": 9}, "opset 9: expected 18 to 23"),
        ({"shape": (16, 64)}, "both sides must be at least 32"),
    ],
)
def test_what_cannot_be_asked_for(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_model(backbone_exportable(tiny(2)), tmp_path / "x", **options)


def test_missing_packages_are_named_with_their_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript"):
        export_model(backbone_exportable(tiny(2)), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: setattr(m, "bbox_head", nn.Identity()), "Identity, .* supported are RetinaNet"),
        (lambda m: m.bbox_head.test_cfg.nms.update(type="soft_nms"), "nms.type is 'soft_nms'"),
        (lambda m: m.bbox_head.test_cfg.update(nms_pre=-1), "nms_pre is -1"),
    ],
)
def test_unsupported_heads_are_named(change, message):
    model = tiny_model(RETINANET)
    change(model)
    with pytest.raises(UserError, match=message):
        model_exportable(model)


def test_unsupported_models_are_named():
    with pytest.raises(UserError, match="a Linear is not exported as a whole; supported are"):
        model_exportable(nn.Linear(1, 1))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--format", "tflite"], "format 'tflite' is unknown"),
        (["--opset", "7"], "opset 7: expected 18 to 23"),
        (["--out", "nowhere/x.onnx"], "there is no folder nowhere"),
        ([], "checkpoint absent.pth not found"),
    ],
)
def test_tool_says_in_one_line_what_is_wrong(options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([str(RETINANET), "absent.pth", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error


def test_tool_exports_a_backbone_with_its_checkpoint_and_metadata(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": tiny_model(RETINANET).state_dict()}, "model.pth")
    model = {"backbone": {"arch": {**TINY, "_delete_": True}}, "neck": {"in_channels": list(DIMS)}}
    Path("tiny.py").write_text(f"_base_ = [{str(RETINANET)!r}]\nmodel = {model}\n")
    flags = ["--part", "backbone", "--static", "--shape", "64", "96", "--opset", "20"]
    assert main(["tiny.py", "model.pth", *flags]) == 0
    assert "largest difference to PyTorch at 1x64x96" in capsys.readouterr().out
    path = tmp_path / "tiny_backbone.onnx"
    session = onnxruntime.InferenceSession(path)
    entries = session.get_modelmeta().custom_metadata_map
    meta = {name: json.loads(value) for name, value in entries.items()}
    assert meta["classes"] == list(CLASSES)
    assert meta["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert meta["size_divisor"] == 32 and meta["channel_order"] == "RGB"
    assert meta["resize"] == [{"type": "Resize", "scale": [128, 128], "keep_ratio": True}]
    assert [one.shape for one in session.get_inputs()] == [[1, 3, 64, 96]]
