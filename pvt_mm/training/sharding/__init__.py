"""Models that outgrow a GPU: mmengine's FlexibleRunner with FSDP or DeepSpeed."""

from pvt_mm.training.sharding.checks import check_sharding, is_sharded
from pvt_mm.training.sharding.prepare import prepare_sharding, without_sharding

__all__ = [
    "check_sharding",
    "is_sharded",
    "prepare_sharding",
    "without_sharding",
]
