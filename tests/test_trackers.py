"""Scalars go to TensorBoard where it is installed, to other trackers by an option."""

import pytest
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, VISBACKENDS
from mmengine.visualization import LocalVisBackend  # noqa: F401  registers them all

from pvt_mm.errors import UserError
from pvt_mm.training import trackers
from pvt_mm.training.train import build_runner


@pytest.fixture
def installed(monkeypatch):
    packages = set()
    monkeypatch.setattr(trackers, "find_spec", lambda name: object() if name in packages else None)
    return packages


@MODELS.register_module()
class ToyModel(BaseModel):
    """Does nothing."""

    def forward(self, inputs):
        return inputs


def config(*backends):
    listed = [dict(type=backend) for backend in backends]
    return Config(dict(work_dir="work_dirs/mine", visualizer=dict(vis_backends=listed)))


@pytest.mark.parametrize(
    ("packages", "asked", "before", "after"),
    [
        ((), None, ["LocalVisBackend"], ["LocalVisBackend"]),
        (["tensorboard"], None, ["LocalVisBackend"], ["LocalVisBackend", "TensorboardVisBackend"]),
        (["tensorboard"], None, ["mmengine.TensorboardVisBackend"], ["TensorboardVisBackend"]),
        (["tensorboard"], "tensorboard", [], ["TensorboardVisBackend"]),
        (["wandb", "mlflow"], None, ["LocalVisBackend"], ["LocalVisBackend"]),
        (["wandb"], "wandb", ["LocalVisBackend"], ["LocalVisBackend", "WandbVisBackend"]),
        (["mlflow", "tensorboard"], "mlflow", [], ["MLflowVisBackend", "TensorboardVisBackend"]),
    ],
)
def test_backends(installed, packages, asked, before, after):
    installed.update(packages)
    cfg = config(*before)
    trackers.use_trackers(cfg, asked)
    found = [backend.type.rpartition(".")[2] for backend in cfg.visualizer.vis_backends]
    assert found == after
    assert all(VISBACKENDS.get(name) for name in found)


def test_runs_are_named_after_the_work_directory(installed):
    installed.update(["wandb", "mlflow"])
    for tracker in ("wandb", "mlflow"):
        cfg = config()
        trackers.use_trackers(cfg, tracker)
        assert "mine" in str(cfg.visualizer.vis_backends[0])


def test_what_is_wrong_is_said(installed):
    with pytest.raises(UserError, match="--log-to wandb: not installed; python -m pip install"):
        trackers.use_trackers(config(), "wandb")
    installed.add("wandb")
    with pytest.raises(UserError, match="the config has no visualizer"):
        trackers.use_trackers(Config(dict(work_dir="x")), "wandb")
    trackers.use_trackers(Config(dict(work_dir="x")))


def test_each_run_of_a_process_logs_into_its_own_folder(tmp_path):
    for name in ("first", "second"):
        backend = dict(type="LocalVisBackend")
        runner = build_runner(
            Config(
                dict(
                    model=dict(type="ToyModel"),
                    work_dir=str(tmp_path / name),
                    experiment_name=name,
                    visualizer=dict(type="Visualizer", name="visualizer", vis_backends=[backend]),
                )
            )
        )
        runner.visualizer.add_scalar("loss", 1.0, step=1)
        assert list((tmp_path / name).glob("*/vis_data/scalars.json")), name
