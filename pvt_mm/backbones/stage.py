"""One stage of the pyramid: a map in, tokens through the blocks, a smaller map out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvt_mm.backbones.embed import PatchEmbed
from pvt_mm.tokens import tokens_to_map

__all__ = ["run_stage"]

HW = tuple[int, int]


def run_stage(
    x: Tensor,
    patch_embed: PatchEmbed,
    blocks: Iterable[nn.Module],
    norm: nn.Module | None = None,
    add_position: Callable[[Tensor, HW], Tensor] | None = None,
    with_cp: bool = False,
) -> Tensor:
    """Run one stage of a Pyramid Vision Transformer.

    A function, not a module: the released checkpoints name the parts of a stage side by side
    (``patch_embed1``, ``block1``, ``norm1``), so the backbone owns them.

    Args:
        x: Image or map of the stage before, ``(B, c, h, w)``.
        patch_embed: From the map to tokens.
        blocks: Transformer blocks, called with tokens and ``(H, W)``.
        norm: Norm of the tokens that leave (v2).
        add_position: Adds a position embedding to the tokens of an ``(H, W)`` map (v1).
        with_cp: Keep no activation inside the blocks; recompute them in the backward pass.

    Returns:
        ``(B, C, H, W)`` map with channels-last strides.

    Reference: PVT, figure 3, arXiv:2102.12122.
    """
    tokens, hw = patch_embed(x)  # (B, H*W, C)
    if add_position is not None:
        tokens = add_position(tokens, hw)
    for block in blocks:
        if with_cp:
            tokens = checkpoint(block, tokens, hw, use_reentrant=False)
        else:
            tokens = block(tokens, hw)
    if norm is not None:
        tokens = norm(tokens)
    return tokens_to_map(tokens, hw)
