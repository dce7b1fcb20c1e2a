"""What a sharded run needs, and what it cannot do."""

from importlib.util import find_spec

from mmengine.config import Config

from pvt_mm.errors import UserError
from pvt_mm.training.amp import is_amp

__all__ = ["check_sharding", "is_sharded"]

# The second of each is what the tools write into the work directory's copy of the config.
RUNNERS = ("FlexibleRunner", "ShardedRunner")
FSDP = ("FSDPStrategy", "MendedFSDPStrategy")
DEEPSPEED = "DeepSpeedStrategy"
FULL = ("full", "FULL_STATE_DICT")


def is_sharded(cfg: Config) -> bool:
    """Whether the config trains by mmengine's FlexibleRunner."""
    return cfg.get("runner_type") in RUNNERS


def check_sharding(cfg: Config, channels_last: bool = False, compile: bool = False) -> None:
    """Check that what was asked for goes together with FlexibleRunner, if that is the runner.

    Args:
        cfg: The config, with everything that options such as ``--amp`` change in it.
        channels_last: Whether ``--channels-last`` was given.
        compile: Whether ``--compile`` was given.

    Raises:
        UserError: If it does not.
    """
    if not is_sharded(cfg):
        return
    for given, option in ((channels_last, "--channels-last"), (compile, "--compile")):
        if given:
            raise UserError(f"{option} does not work with runner_type FlexibleRunner; leave it out")
    strategy = cfg.get("strategy") or {}
    kind = strategy.get("type")
    if kind not in (*FSDP, DEEPSPEED):
        raise UserError(
            f"strategy.type is {kind!r}; with runner_type FlexibleRunner expected 'FSDPStrategy' "
            "or 'DeepSpeedStrategy'"
        )
    if cfg.launcher == "none":
        raise UserError(f"{kind} needs a process for each GPU: start it with tools/dist_train.sh")
    if is_amp(cfg.optim_wrapper):
        remedy = "model_wrapper.mixed_precision" if kind in FSDP else "bf16 or fp16"
        raise UserError(
            f"--amp and AmpOptimWrapper do not work with {kind}; use OptimWrapper and "
            f"strategy.{remedy}"
        )
    if kind in FSDP:
        _check_fsdp(strategy)
    else:
        _check_deepspeed(cfg)


def _check_fsdp(strategy: dict) -> None:
    state = strategy.get("state_dict_cfg", "local")
    found = state.get("state_dict_type") if isinstance(state, dict) else state
    if found not in FULL:
        raise UserError(
            f"strategy.state_dict_cfg is {found!r}, which saves a folder of shards; expected "
            "'full', which saves one file that testing and resuming can read"
        )


def _check_deepspeed(cfg: Config) -> None:
    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeedStrategy needs a package that is missing: pip install deepspeed")
    if cfg.optim_wrapper.get("type") != "DeepSpeedOptimWrapper":
        raise UserError(
            "DeepSpeedStrategy needs optim_wrapper.type 'DeepSpeedOptimWrapper', but it is "
            f"{cfg.optim_wrapper.get('type', 'OptimWrapper')!r}"
        )
    if cfg.get("load_from"):
        raise UserError(
            f"{cfg.load_from}: DeepSpeedStrategy keeps checkpoints in folders of its own, which "
            "--resume and load_from cannot check; train without them, or with FSDPStrategy"
        )
