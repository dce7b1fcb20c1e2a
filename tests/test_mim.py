"""mim on an installed wheel, with no checkout in sight: the real commands, real small runs."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from pathlib import Path

import pytest
import yaml
from installed import Environment, build_distributions
from recipes import ROWS

from pvt_mm.data.demo import DemoSpec, make_demo_data

pytestmark = pytest.mark.slow

DETECTOR = "retinanet_pvt_v2_b0_fpn_demo.py"
SEGMENTOR = "fpn_pvt_v2_b0_demo.py"
# A few iterations, all in one process.
SHORT = [
    f"{split}_dataloader.{key}"
    for split in ("train", "val", "test")
    for key in ("num_workers=0", "persistent_workers=False", "batch_size=2")
]
# Everything is a detection, so that a network which has learnt nothing has some.
TEST_OPTIONS = [*SHORT, "model.test_cfg.score_thr=0.0"]
DETECTOR_OPTIONS = [*TEST_OPTIONS, "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
SEGMENTOR_OPTIONS = [*SHORT, "train_cfg.max_iters=2", "train_cfg.val_interval=2"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mim")
    _, wheel = build_distributions(folder / "build")
    made = Environment(folder / "env")
    made.install(wheel)
    return made


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder that the commands are called in."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def packaged(environment):
    return environment.site / "pvt_mm" / ".mim"


@pytest.fixture(scope="module")
def trained(environment, work):
    """What mim train prints; it leaves a checkpoint behind."""
    make_demo_data(work / "data" / "demo", DemoSpec(train=4, val=2, size=64))
    train = ("train", "pvt_mm", DETECTOR, "--cfg-options", *DETECTOR_OPTIONS)
    return environment.mim(*train, cwd=work)


@pytest.fixture(scope="module")
def checkpoint(trained, work):
    return work / "work_dirs" / Path(DETECTOR).stem / "epoch_1.pth"


def test_train(trained, checkpoint, packaged):
    assert f"use {packaged / 'configs' / DETECTOR}" in trained
    assert "Training finished successfully" in trained
    assert len(re.findall(r"coco/bbox_mAP: ", trained)) == 1
    assert checkpoint.is_file()


@pytest.mark.parametrize(
    "package",
    ["pvt_mm", pytest.param("mmdet", marks=[pytest.mark.openmmlab, pytest.mark.exhaustive])],
)
def test_test(environment, work, packaged, checkpoint, package):
    # mmdet's mim looks for a bare name among mmdet's configs: it needs the path.
    config = DETECTOR if package == "pvt_mm" else packaged / "configs" / DETECTOR
    test = ("test", package, config, "--checkpoint", checkpoint)
    printed = environment.mim(*test, "--cfg-options", *TEST_OPTIONS, cwd=work)
    assert "coco/bbox_mAP_50" in printed
    assert "Testing finished successfully" in printed


@pytest.mark.openmmlab
def test_train_with_mmsegs_own_tool(environment, work, packaged, trained):
    config = packaged / "configs" / SEGMENTOR
    train = ("train", "mmseg", config, "--work-dir", "seg")
    printed = environment.mim(*train, "--cfg-options", *SEGMENTOR_OPTIONS, cwd=work)
    assert "mIoU" in printed and "Training finished successfully" in printed
    assert (work / "seg" / "iter_2.pth").is_file()


def test_configs_of_the_package_are_suggested(environment, work, packaged):
    run = ("run", "pvt_mm", "test", "retinanet_pvt_v2_b0_fpn_dem.py", "nothing.pth")
    printed = environment.mim(*run, cwd=work, check=False)
    assert f"did you mean {packaged / 'configs' / DETECTOR}" in printed


def test_run(environment, work):
    run = ("run", "pvt_mm", "get_flops", "retinanet_pvt_t_fpn_1x_coco.py", "--shape", "64")
    printed = environment.mim(*run, cwd=work)
    assert "retinanet_pvt_t_fpn_1x_coco |" in printed
    assert "finished successfully" in printed


def test_search(environment, work):
    printed = environment.mim("search", "pvt_mm", "--valid-config", cwd=work)
    assert set(re.findall(r"'(\w[\w-]+)'", printed)) >= set(ROWS)
    # mim's conditions take no field with a slash, such as coco/box_ap.
    condition = ("--condition", "epochs>36,epochs<300", "--field", "coco/box_ap", "weight")
    chosen = environment.mim("search", "pvt_mm", *condition, cwd=work)
    expected = ["deformable_detr_pvt_v2_b0_50ep_coco", "deformable_detr_pvt_v2_b2_50ep_coco"]
    expected += ["detr_pvt_s_8x2_50ep_coco"]
    assert sorted(re.findall(r"config id: (\w+)", chosen)) == expected
    assert re.search(r"coco/box_ap +34.7", chosen) and "pvt_small.pth" in chosen


@pytest.mark.openmmlab
def test_download(environment, work, packaged, tmp_path):
    """The addresses of two models are led to this machine."""
    folder = tmp_path / "server"
    folder.mkdir()
    names = {
        "retinanet_pvt_t_fpn_1x_coco": packaged / "configs/metafiles/retinanet.yml",
        "fpn_pvt_v2_b2_ade20k_40k": packaged / "configs/metafiles/semantic_fpn.yml",
    }
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    files = {}
    try:
        for name, metafile in names.items():
            content = yaml.safe_load(metafile.read_text())
            (model,) = (model for model in content["Models"] if model["Name"] == name)
            file = model["Weights"].rpartition("/")[2]
            model["Weights"] = f"http://127.0.0.1:{server.server_port}/{file}"
            metafile.write_text(yaml.safe_dump(content))
            (folder / file).write_bytes(name.encode())
            files[file] = name.encode()
        download = ("download", "pvt_mm", "--config", *names, "--dest", tmp_path / "got")
        environment.mim(*download, cwd=work, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    finally:
        server.shutdown()
        thread.join()
    got = {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()}
    assert {name: got.pop(name) for name in files} == files
    assert set(got) == {f"{name}.py" for name in names}
    assert b"type='pvt_mm.PVT'" in got["retinanet_pvt_t_fpn_1x_coco.py"]
