"""The demo from data to pictures, on a handful of images."""

import os
from pathlib import Path

import cv2
import pytest

from pvt_mm.data.demo import DemoSpec

pytest.importorskip("mmdet")

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_demo_trains_once_and_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    from pvt_mm.demo import tool as demo
    from pvt_mm.training.resuming.loops import ResumableEpochLoop

    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "data"))
    config = tmp_path / "tiny.py"
    config.write_text(
        f"_base_ = [{str(CONFIGS / 'retinanet_pvt_v2_b0_fpn_demo.py')!r}]\n"
        "model = dict(test_cfg=dict(score_thr=0.0))\n"
        "train_cfg = dict(max_epochs=2, val_interval=2)\n"
        "train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n"
        "val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n"
        "test_dataloader = val_dataloader\n"
    )
    arguments = (tmp_path / "work", config, DemoSpec(train=4, val=2, size=64))
    epochs = []
    run_epoch = ResumableEpochLoop.run_epoch

    def counted(loop):
        epochs.append(loop.epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        run_epoch(loop)

    monkeypatch.setattr(ResumableEpochLoop, "run_epoch", counted)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(*arguments)
    result = demo.run_demo(*arguments)
    assert epochs == [0, 1, 1], "the first epoch is not trained again"

    assert result.checkpoint == tmp_path / "work" / "epoch_2.pth"
    assert 0 <= result.ap <= result.ap50 <= 1
    assert sorted(os.listdir(result.pictures)) == [
        "validation_00000.png",
        "validation_00001.png",
    ]
    picture = cv2.imread(str(result.pictures / "validation_00000.png"))
    assert picture.shape == (6 * 64, 2 * 6 * 64, 3)

    again = demo.run_demo(*arguments)
    assert len(epochs) == 3, "a finished demo does not train again"
    assert again.ap == result.ap

    capsys.readouterr()
    demo.report(again)
    shown = capsys.readouterr().out
    assert f"box AP50    {again.ap50:.3f}" in shown
    assert str(result.pictures) in shown
    assert str(result.checkpoint) in shown


def test_a_folder_in_the_way_is_one_line(tmp_path, monkeypatch, capsys):
    from pvt_mm.demo import tool as demo

    (tmp_path / "precious.txt").write_text("mine")
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path))
    assert demo.main(["--work-dir", str(tmp_path / "work")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: demo data: {tmp_path} is not empty and holds no demo.json")
    assert error.count("\n") == 1
