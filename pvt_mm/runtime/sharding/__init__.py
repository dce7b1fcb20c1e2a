"""Models that outgrow a GPU: mmengine's FlexibleRunner with FSDP or DeepSpeed."""

from .checks import check_sharding, is_sharded
from .matching import ShardedKeysHook
from .prepare import prepare_sharding, without_sharding

__all__ = [
    "ShardedKeysHook",
    "check_sharding",
    "is_sharded",
    "prepare_sharding",
    "without_sharding",
]
