"""Sharded training: the results of one process, and what is refused."""

import inspect

import pytest
import torch
from mmengine._strategy.deepspeed import DeepSpeedStrategy
from mmengine.config import Config
from ranks import CONFIGS, NO_WORKERS, parameters, run_ranks, segmentor_folder, train
from torch import nn

from pvt_mm.backbones import PVTv2
from pvt_mm.backbones.block import Block
from pvt_mm.checkpoints import safe_load
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import UserError
from pvt_mm.training.sharding import check_sharding
from pvt_mm.training.sharding.policy import is_block, wrap_blocks

SHARDED = f'_base_ = ["{{base}}", "{CONFIGS}/_base_/fsdp.py"]\n'
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes need two GPUs")


@on_cpu
@pytest.mark.slow
def test_sharded_training_is_that_of_one_process(tmp_path):
    folder = segmentor_folder(tmp_path)
    (folder / "sharded.py").write_text(SHARDED.format(base="segmentor.py"))
    alone = train(folder, 1, "alone")
    sharded = train(folder, 2, "sharded", config="sharded.py")
    resumed = train(folder, 2, "resumed", config="sharded.py", resume="sharded/iter_2.pth")
    start = parameters(folder / "start.pth")
    assert max((alone[name] - start[name]).abs().max() for name in alone) > 0.02
    assert sharded.keys() == resumed.keys() == alone.keys()
    for name, expected in alone.items():
        torch.testing.assert_close(sharded[name], expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(resumed[name], expected, rtol=0, atol=2e-6)


@on_cpu
@pytest.mark.slow
def test_a_sharded_detector_trains_and_is_tested_by_one_process(tmp_path):
    make_demo_data(tmp_path / "data", DemoSpec(train=4, val=2, size=64))
    base = CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py"
    config = tmp_path / "detector.py"
    config.write_text(
        SHARDED.format(base=base) + "train_cfg = dict(max_epochs=1)\n"
        "val_cfg = val_dataloader = val_evaluator = None\n"
    )
    options = NO_WORKERS | {"train_dataloader.batch_size": 1}
    arguments = {"config": "detector.py", "work_dir": "work"}
    run_ranks(2, tmp_path, "train", cfg_options=options, **arguments)
    saved = safe_load(tmp_path / "work/epoch_1.pth")
    assert saved["meta"]["iter"] == 2
    kept = saved["optimizer"]["state"]["backbone.block1.0.attn.q.weight"]
    assert kept["exp_avg"].shape == (32, 32)
    run_ranks(
        1, tmp_path, "test", checkpoint="work/epoch_1.pth", cfg_options=NO_WORKERS, **arguments
    )


def test_each_block_is_a_unit():
    backbone = PVTv2("b0")
    units = [module for module in backbone.modules() if wrap_blocks(module, False, 0)]
    assert len(units) == 8
    assert all(isinstance(unit, Block) and is_block(unit) for unit in units)
    assert wrap_blocks(nn.Linear(1, 1), True, 0)


def sharded_config(tmp_path, fragment="fsdp", **changes):
    path = tmp_path / "leaf.py"
    leaf = CONFIGS / "retinanet_pvt_v2_b0_fpn_1x_coco.py"
    path.write_text(f'_base_ = ["{leaf}", "{CONFIGS}/_base_/{fragment}.py"]\n')
    cfg = Config.fromfile(path)
    cfg.launcher = "pytorch"
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"launcher": "none"}, "FSDPStrategy needs a process for each GPU: .*dist_train.sh"),
        ({"optim_wrapper.type": "AmpOptimWrapper"}, "--amp .*strategy.model_wrapper.mixed_prec"),
        ({"strategy.state_dict_cfg": "local"}, "'local', which saves a folder .* 'full'"),
        ({"strategy.type": "ColossalAIStrategy"}, "strategy.type is 'ColossalAIStrategy'; .* exp"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, message):
    check_sharding(sharded_config(tmp_path))
    with pytest.raises(UserError, match=message):
        check_sharding(sharded_config(tmp_path, **changes))


@pytest.mark.parametrize("option", ["channels_last", "compile"])
def test_options_that_want_a_built_model_are_refused(tmp_path, option):
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} does not work"):
        check_sharding(sharded_config(tmp_path), **{option: True})


def test_other_runners_are_left_alone():
    cfg = Config.fromfile(CONFIGS / "retinanet_pvt_v2_b0_fpn_1x_coco.py")
    check_sharding(cfg, channels_last=True, compile=True)


def test_deepspeed_is_what_mmengine_takes(tmp_path, monkeypatch):
    cfg = sharded_config(tmp_path, "deepspeed_zero2")
    taken = inspect.signature(DeepSpeedStrategy.__init__).parameters
    assert set(cfg.strategy) - {"type"} <= set(taken)
    checks = "pvt_mm.training.sharding.checks.find_spec"
    monkeypatch.setattr(checks, lambda name: None)
    with pytest.raises(UserError, match="pip install deepspeed"):
        check_sharding(cfg)
    monkeypatch.setattr(checks, lambda name: object())
    with pytest.raises(UserError, match="expected|needs optim_wrapper.type 'DeepSpeedOptimWrapp"):
        check_sharding(cfg)
    cfg.optim_wrapper.type = "DeepSpeedOptimWrapper"
    check_sharding(cfg)
    cfg.load_from = "epoch_1.pth"
    with pytest.raises(UserError, match="epoch_1.pth: DeepSpeedStrategy keeps checkpoints in"):
        check_sharding(cfg)
