"""What is sharded and what is recomputed: the transformer blocks, each by itself.

Configs name these functions by their dotted path.
"""

from torch import nn

from pvt_mm.backbones.block import Block

__all__ = ["is_block", "wrap_blocks"]


def is_block(module: nn.Module) -> bool:
    """Whether this is a transformer block; FSDPStrategy's ``activation_checkpointing.check_fn``."""
    return isinstance(module, Block)


def wrap_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Make each block an FSDP unit of its own; FSDP's ``auto_wrap_policy``.

    Args:
        module: A module of the model.
        recurse: Whether FSDP asks if to look at the module's children; else it asks if to wrap
            the module itself.
        nonwrapped_numel: Parameters that no unit holds yet; here size does not matter.
    """
    return recurse or is_block(module)
