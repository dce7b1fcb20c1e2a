"""The tools' options for speed must not change what a model computes."""

import pytest
import torch
from recipes import build_model, read

from pvt_mm import PVT, PVTv2
from pvt_mm.errors import UserError
from pvt_mm.training.speed import compile_backbone, prepare_speed, use_channels_last

DETECTORS = ("retinanet_pvt_v2_b0_fpn_1x_coco", "mask_rcnn_pvt_v2_b0_fpn_1x_coco")


def predict(model, images):
    from mmdet.structures import DetDataSample

    shape = tuple(images.shape[2:])
    meta = {"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)}
    samples = [DetDataSample(metainfo=dict(meta)) for _ in images]
    with torch.no_grad():
        return [sample.pred_instances for sample in model(images, samples, mode="predict")]


@pytest.mark.parametrize("name", DETECTORS)
def test_channels_last_keeps_the_predictions(name):
    torch.manual_seed(0)
    cfg = read(name)
    if "rcnn" in cfg.model.test_cfg:
        cfg.model.test_cfg.rcnn.score_thr = 0.0  # an untrained one is sure of nothing
    model = build_model(cfg).eval()
    images = torch.randn(2, 3, 64, 96)
    before = predict(model, images)
    use_channels_last(model)
    assert model.neck.fpn_convs[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(predict(model, images), before, strict=True):
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("backbone", [PVT, PVTv2])
def test_compiled_backbone_takes_every_size(backbone):
    torch.manual_seed(0)
    arch = {PVT: "tiny", PVTv2: "b0"}[backbone]
    model = torch.nn.Module()
    model.backbone = backbone(arch).eval()
    sizes = [(64, 96), (96, 64), (75, 101)]
    images = [torch.randn(1, 3, *size) for size in sizes]
    with torch.no_grad():
        expected = [model.backbone(image) for image in images]
        compile_backbone(model, backend="eager", fullgraph=True)
        for image, maps in zip(images, expected, strict=True):
            for ours, theirs in zip(model.backbone(image), maps, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_compiled_inference_predicts_the_same(dtype):
    """By PyTorch's own compiler, with weights laid out once."""
    torch.manual_seed(0)
    arch = {"embed_dims": (32, 64, 160, 256), "depths": (1, 1, 1, 1)}
    model = torch.nn.Module()
    model.backbone = PVTv2(arch).eval()
    images = [torch.randn(1, 3, *size) for size in ((64, 96), (128, 64))]
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected = [model.backbone(image) for image in images]
        compile_backbone(model, inference=True)
        for image, maps in zip(images, expected, strict=True):
            for ours, theirs in zip(model.backbone(image), maps, strict=True):
                assert (ours - theirs).float().norm() <= tolerance * theirs.float().norm()


def test_compiling_for_a_cpu_needs_a_compiler(monkeypatch, tmp_path):
    model = torch.nn.Module()
    model.backbone = PVTv2("b0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "absent-c++")
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler.*; install g\\+\\+"):
        compile_backbone(model)


def test_compile_needs_a_backbone():
    with pytest.raises(UserError, match="Linear has no backbone"):
        prepare_speed(type("Runner", (), {"model": torch.nn.Linear(1, 1)}), compile=True)
