"""The check of a checkpoint's parameters for a model of which each process holds a shard."""

import copy
from types import SimpleNamespace

from mmengine.registry import MODELS
from mmengine.runner import FlexibleRunner

from pvt_mm.training.matching import MatchingKeysHook

__all__ = ["ShardedKeysHook"]


class ShardedKeysHook(MatchingKeysHook):
    """Refuse a checkpoint whose parameters are not the model's; see ``MatchingKeysHook``."""

    def after_load_checkpoint(self, runner: FlexibleRunner, checkpoint: dict) -> None:
        """Load the parameters strictly into a whole copy, which is dropped again.

        The shards' own shapes say nothing. FSDP built the whole model in every process too.
        """
        whole = MODELS.build(copy.deepcopy(runner.cfg.model))
        super().after_load_checkpoint(SimpleNamespace(model=whole), checkpoint)
