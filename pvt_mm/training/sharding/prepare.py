"""What the tools change in a sharded config."""

from mmengine.config import Config

from pvt_mm.training.sharding.checks import is_sharded

__all__ = ["prepare_sharding", "without_sharding"]


def prepare_sharding(cfg: Config) -> None:
    """Take the runner and the strategy that work with today's torch and with our train loops."""
    if not is_sharded(cfg):
        return
    from pvt_mm.training.sharding.runner import ShardedRunner
    from pvt_mm.training.sharding.strategy import MendedFSDPStrategy

    cfg.runner_type = ShardedRunner.__name__
    if cfg.strategy.type == "FSDPStrategy":
        cfg.strategy.type = MendedFSDPStrategy.__name__


def without_sharding(cfg: Config) -> None:
    """Let the plain Runner do what needs no shards: testing keeps no gradients and no optimizer."""
    cfg.pop("runner_type", None)
    cfg.pop("strategy", None)
