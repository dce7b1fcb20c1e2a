"""The demo configs' data are made by the first run that misses them, and only then."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from recipes import CONFIGS

import pvt_mm.data.demo.make_data
from pvt_mm.config.loading import load_config
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.data.demo.make_data import make_absent_demo_data
from pvt_mm.errors import UserError

DETECTOR = CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py"
SEGMENTOR = CONFIGS / "fpn_pvt_v2_b0_demo.py"


@pytest.fixture(autouse=True)
def few_images(tmp_path, monkeypatch):
    spec = DemoSpec(train=2, val=1, size=64)
    few = partial(make_demo_data, spec=spec)
    monkeypatch.setattr(pvt_mm.data.demo.make_data, "make_demo_data", few)
    monkeypatch.delenv("DEMO_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTOR])
@pytest.mark.parametrize("split", ["train", "test"])
def test_absent_data_are_made_under_the_current_folder(config, split, tmp_path):
    make_absent_demo_data(load_config(config), (split,))
    assert len(list((tmp_path / "data/demo/images/training").iterdir())) == 2


def test_data_are_made_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "else where"))
    make_absent_demo_data(load_config(DETECTOR), ("train", "val"))
    assert [path.name for path in tmp_path.iterdir()] == ["else where"]
    assert (tmp_path / "else where" / "demo.json").is_file()


def test_what_exists_is_left_alone(tmp_path):
    mine = tmp_path / "data/demo/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    make_absent_demo_data(load_config(DETECTOR), ("train",))
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("config", "options", "launcher"),
    [
        (CONFIGS / "retinanet_pvt_t_fpn_1x_coco.py", {}, "none"),
        (DETECTOR, {"train_dataloader.dataset.data_root": "data/own"}, "none"),
        (DETECTOR, {}, "pytorch"),
    ],
)
def test_other_data_and_distributed_runs_make_nothing(config, options, launcher):
    make_absent_demo_data(load_config(config, options, launcher=launcher), ("train",))
    assert not Path("data").exists()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_user(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match="demo data: .*data"):
        make_absent_demo_data(load_config(DETECTOR), ("train",))
