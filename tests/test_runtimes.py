"""Exported files in the place of checkpoints: the same results as the networks they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from pycocotools import mask as mask_utils
from torch import nn

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

from pvt_mm import Predictor  # noqa: E402
from pvt_mm.config.loading import load_config  # noqa: E402
from pvt_mm.data.demo import DemoSpec, make_demo_data  # noqa: E402
from pvt_mm.data.demo.scenes import make_scene  # noqa: E402
from pvt_mm.devices import choose_dtype, has_bfloat16  # noqa: E402
from pvt_mm.errors import UserError  # noqa: E402
from pvt_mm.export import backbone_exportable, export_model  # noqa: E402
from pvt_mm.export.cli import run_export  # noqa: E402
from pvt_mm.runtimes import is_exported, open_session  # noqa: E402
from pvt_mm.training.test import run_test  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = {
    "detection": "retinanet_pvt_v2_b0_fpn_demo.py",
    "instances": "mask_rcnn_pvt_v2_b0_fpn_demo.py",
    "segmentation": "fpn_pvt_v2_b0_demo.py",
}
STATIC = (128, 128)  # what the demo's pipeline makes of a square image
DIMS = (8, 16, 40, 64)
TINY = {"embed_dims": DIMS, "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


def write_tiny(task, folder, data):
    """Write a demo config with a tiny backbone, and a checkpoint of random weights."""
    make_demo_data(data, DemoSpec(train=4, val=6, size=96))
    config, checkpoint = folder / "tiny.py", folder / "tiny.pth"
    config.write_text(
        f"_base_ = {str(CONFIGS / NAMES[task])!r}\n"
        f"_tiny = dict(_delete_=True, type='pvt_mm.PVTv2', arch={TINY})\n"
        f"model = dict(backbone=_tiny, neck=dict(in_channels={list(DIMS)}))\n"
    )
    cfg = load_config(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    for name, parameter in model.named_parameters():  # differences between places
        if name.endswith(("retina_cls.weight", "rpn_cls.weight", "fc_cls.weight")):
            nn.init.normal_(parameter, std=0.03)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, checkpoint)
    return config, checkpoint


@pytest.fixture(
    scope="module",
    params=[
        "detection",
        "segmentation",
        pytest.param("instances", marks=pytest.mark.exhaustive),
    ],
)
def job(request, tmp_path_factory):
    """A task, a tiny model's config and checkpoint, demo data and an OpenVINO file."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_ROOT", str(folder / "data"))
        config, checkpoint = write_tiny(request.param, folder, folder / "data")
        yield request.param, config, checkpoint, exported(request.param, config, checkpoint)


def exported(task, config, checkpoint):
    """Write the model for OpenVINO, compared with PyTorch on the way."""
    return run_export(
        config,
        str(checkpoint),
        format="openvino",
        out=config.with_suffix(".xml"),
        logits=task == "segmentation",
        dynamic=task != "instances",  # which takes a minute to record
        shape=STATIC,
        check=True,
    )


def images(task):
    # Not of the size that the pipeline makes of them and, where the file takes any, not square.
    height = 120 if task == "instances" else 90
    return [make_scene((seed,), 120).image[:height, :, ::-1].copy() for seed in (1, 2)]


def assert_same(task, expected, found, tolerance):
    if task == "segmentation":
        assert len(np.unique(expected.labels)) > 1
        assert (expected.labels == found.labels).mean() > 0.995
        return
    assert len(expected.scores) == len(found.scores) > 3
    np.testing.assert_allclose(found.scores, expected.scores, atol=tolerance)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=100 * tolerance)
    np.testing.assert_array_equal(found.labels, expected.labels)
    for one, other in zip(expected.masks or (), found.masks or (), strict=True):
        assert (mask_utils.decode(one) == mask_utils.decode(other)).mean() > 0.999


@pytest.mark.slow
def test_openvino_predicts_what_the_network_predicts(job):
    task, config, checkpoint, file = job
    expected = Predictor(config, checkpoint, score_thr=0.0)(images(task))
    found = Predictor(config, file, score_thr=0.0)(images(task))
    for one, other in zip(expected, found, strict=True):
        assert_same(task, one, other, 1e-4)


@pytest.mark.slow
def test_the_usual_test_measures_an_exported_file(job, tmp_path):
    _, config, checkpoint, file = job
    expected = run_test(config, str(checkpoint), work_dir=tmp_path / "network")
    found = run_test(config, str(file), work_dir=tmp_path / "file")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-3, nan_ok=True), name


@pytest.mark.slow
@pytest.mark.exhaustive
def test_onnx_runtime_serves_as_well(job, tmp_path):
    task, config, checkpoint, _ = job
    file = run_export(config, str(checkpoint), out=tmp_path / "tiny.onnx", check=False)
    expected = Predictor(config, checkpoint, score_thr=0.0)(images(task))
    found = Predictor(config, file, score_thr=0.0)(images(task))
    for one, other in zip(expected, found, strict=True):
        if task == "segmentation":  # labels, which are enlarged from the nearest pixel
            assert (one.labels == other.labels).mean() > 0.8
        else:
            assert_same(task, one, other, 1e-4)
    with pytest.raises(UserError, match="float32 on CPUs"):
        Predictor(config, file, dtype="bfloat16")


@pytest.mark.slow
def test_bfloat16_is_near(job):
    task, config, checkpoint, file = job
    expected = Predictor(config, checkpoint, score_thr=0.0)(images(task))
    for source in (checkpoint, file):
        found = Predictor(config, source, score_thr=0.0, dtype="bfloat16")(images(task))
        for one, other in zip(expected, found, strict=True):
            if task == "segmentation":  # of random weights: near ties everywhere
                assert (one.labels == other.labels).mean() > 0.75
            else:
                best = min(len(one.scores), len(other.scores), 5)
                np.testing.assert_allclose(other.scores[:best], one.scores[:best], atol=0.05)


def test_files_of_other_models_are_refused(job, tmp_path):
    task, config, _, file = job
    other = CONFIGS / NAMES["segmentation" if task == "detection" else "detection"]
    with pytest.raises(UserError, match=f"tiny.xml is for {task}, the config for"):
        Predictor(other, file)
    shifted = {"model.data_preprocessor.mean": [1.0, 2.0, 3.0]}
    with pytest.raises(UserError, match=r"exported with mean \[.*\], but the config's"):
        Predictor(config, file, cfg_options=shifted)
    with pytest.raises(UserError, match="--tta: not for an exported file"):
        run_test(config, str(file), tta=True, work_dir=tmp_path)
    with pytest.raises(UserError, match="exported files run on the CPU|cannot be used"):
        Predictor(config, file, device="cuda")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_backbones_file_is_computed_in_what_it_was_exported_for(dtype, tmp_path):
    backbone = MODELS.build({"type": "pvt_mm.PVTv2", "arch": TINY, "out_indices": (0,)}).eval()
    file = tmp_path / "backbone.xml"
    shape = {"shape": (64, 64), "dynamic": False}
    export_model(backbone_exportable(backbone), file, "openvino", dtype=dtype, **shape)
    session = open_session(file)
    assert session.dtype == (dtype if has_bfloat16("cpu") else "float32")
    picture = torch.randn(1, 3, 64, 64)
    (found,) = session.run({"images": picture.numpy()}).values()
    with torch.no_grad():
        (expected,) = backbone(picture)
    differs = np.abs(found - expected.numpy()).max() / expected.abs().max()
    assert differs < (3e-2 if session.dtype == "bfloat16" else 1e-4)
    assert (differs > 1e-4) == (session.dtype == "bfloat16")


def test_files_that_are_none(tmp_path):
    for name in ("absent.onnx", "absent.xml"):
        assert is_exported(name)
        with pytest.raises(UserError, match=f"{name} not found"):
            open_session(tmp_path / name)
        (tmp_path / name).write_text("no graph")
        with pytest.raises(UserError, match=f"{name} is no readable"):
            open_session(tmp_path / name)
    assert not is_exported("epoch_12.pth")


def test_a_processor_without_bfloat16_stays_at_float32(monkeypatch, tmp_path, capsys):
    listed = tmp_path / "cpuinfo"
    monkeypatch.setattr("pvt_mm.devices.CPU_INFO", listed)
    for flags, there in (("flags : avx2 fma", False), ("flags : avx512_bf16", True)):
        has_bfloat16.cache_clear()
        listed.write_text(flags)
        assert choose_dtype("bfloat16", "cpu") == ("bfloat16" if there else "float32")
    has_bfloat16.cache_clear()
    with pytest.raises(UserError, match="--dtype must be float32 or bfloat16, got 'half'"):
        choose_dtype("half", "cpu")


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")]
)
def test_a_gpu_without_bfloat16_stays_at_float32(capability, dtype, monkeypatch):
    # Turing emulates it, which torch's own question calls support.
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *device: capability)
    has_bfloat16.cache_clear()
    try:
        assert choose_dtype("bfloat16", "cuda:1") == dtype
    finally:
        has_bfloat16.cache_clear()


@pytest.mark.slow
def test_int8_states_what_it_costs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nncf")
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "data"))
    config, checkpoint = write_tiny("segmentation", tmp_path, tmp_path / "data")
    for index, image in enumerate(images("segmentation")):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    file = run_export(
        config,
        str(checkpoint),
        format="openvino",
        out=tmp_path / "int8.xml",
        dtype="int8",
        logits=True,
        calibrate=[str(tmp_path / "*.png")],
        max_drop=0.05,
    )
    assert "int8.xml and " in (shown := capsys.readouterr().out) and "int8.bin: " in shown
    assert "FakeQuantize" in file.read_text(), "some products are quantised"
    figures = open_session(file).metadata["figures"]
    measured = run_test(config, str(file), work_dir=tmp_path / "test")
    assert figures["int8"] == pytest.approx(measured["mIoU"] / 100, abs=1e-3)
    assert figures["float32"] - figures["int8"] <= 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "needs --calibrate IMAGES"),
        ({"calibrate": ["x.png"]}, "are for --dtype int8"),
        ({"dtype": "int4"}, "--dtype must be float32, bfloat16, int8"),
        ({"format": "onnx", "dtype": "bfloat16"}, "is for --format openvino"),
        ({"dtype": "int8", "calibrate": ["x.png"], "max_drop": 2.0}, "between 0 and 1"),
        ({"out": "model.bin"}, "ends in .xml"),
    ],
)
def test_what_an_export_for_openvino_refuses(options, message):
    config = CONFIGS / NAMES["detection"]
    with pytest.raises(UserError, match=message):
        run_export(config, "absent.pth", **{"format": "openvino", **options})


def test_openvino_does_not_report_its_use():
    code = (
        "import sys; from pvt_mm.runtimes.sessions import import_openvino; import_openvino(); "
        "print(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"]
