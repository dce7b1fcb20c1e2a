"""What a backbone has to compute and to move, and the time that this takes at least."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pvt_mm.backbones import Arch

__all__ = ["GPU_PEAKS", "Operation", "Peak", "floor_seconds", "macs", "moved_bytes", "operations"]

POOL = 7  # side of linear SRA's pooled map
# A backward pass computes two products for each of the forward pass, and moves as much for each.
BACKWARD = 3


@dataclass(frozen=True)
class Operation:
    """One step that an ideal implementation does in one pass over its operands.

    Args:
        name: What it is.
        macs: Multiply-adds; the FLOPs are twice as many.
        elements: Numbers read and written, each operand once.
    """

    name: str
    macs: int
    elements: int


@dataclass(frozen=True)
class Peak:
    """What a processor can do at best.

    Args:
        flops: Dense bfloat16 FLOP/s.
        bandwidth: Bytes/s from and to memory.
    """

    flops: float
    bandwidth: float


# From the makers' data sheets, without sparsity; SXM boards.
GPU_PEAKS = {
    "H200": Peak(989e12, 4.8e12),
    "H100": Peak(989e12, 3.35e12),
    "A100-SXM4-80GB": Peak(312e12, 2.04e12),
    "A100-SXM4-40GB": Peak(312e12, 1.56e12),
}


def operations(arch: Arch, shape: tuple[int, int], batch: int = 1) -> list[Operation]:
    """Everything that a backbone's forward pass has to do.

    Norms, residual additions and activations count as part of the product beside them: they add
    no pass over memory to an ideal implementation, and next to nothing to the count.

    Args:
        arch: The architecture.
        shape: Height and width of the input, in pixels; multiples of 32.
        batch: Number of images.
    """
    found = []
    channels, kernels = 3, ((4, 2, 2, 2) if arch.version == 1 else (7, 3, 3, 3))
    for stage in range(4):
        stride = 4 * 2**stage
        c, ratio = arch.embed_dims[stage], arch.sr_ratios[stage]
        height, width = (side // stride for side in shape)
        n = batch * height * width
        keys = POOL * POOL if arch.linear_sra else (height // ratio) * (width // ratio)
        m = batch * keys
        pixels = n * (16 if stage == 0 else 4)
        taps = channels * kernels[stage] ** 2
        found.append(
            Operation("patch embedding", n * c * taps, pixels * channels + n * c + c * taps)
        )
        for _ in range(arch.depths[stage]):
            found += _block(arch, stage, c, ratio, n, m, keys)
        channels = c
    return found


def _block(
    arch: Arch, stage: int, c: int, ratio: int, n: int, m: int, keys: int
) -> list[Operation]:
    """One block on ``n`` tokens whose keys and values stand on ``m``, ``keys`` an image."""
    hidden = int(c * arch.mlp_ratios[stage])
    done = [Operation("query", n * c * c, 2 * n * c + c * c)]
    if arch.linear_sra:
        done.append(Operation("reduction", m * c * c, n * c + m * c + c * c))
    elif ratio > 1:
        window = c * c * ratio * ratio
        done.append(Operation("reduction", m * window, n * c + m * c + window))
    done += [
        Operation("key and value", 2 * m * c * c, 3 * m * c + 2 * c * c),
        # Queries meet the keys of their own image only.
        Operation("attention", 2 * n * keys * c, 2 * n * c + 2 * m * c),
        Operation("projection", n * c * c, 3 * n * c + c * c),
        Operation("MLP in", n * c * hidden, n * c + n * hidden + c * hidden),
    ]
    if arch.version == 2:
        done.append(Operation("depth-wise convolution", 9 * n * hidden, 2 * n * hidden))
    done.append(Operation("MLP out", n * c * hidden, n * hidden + 2 * n * c + c * hidden))
    return done


def macs(arch: Arch, shape: tuple[int, int], batch: int = 1) -> int:
    """Multiply-adds of a forward pass."""
    return sum(each.macs for each in operations(arch, shape, batch))


def moved_bytes(
    arch: Arch, shape: tuple[int, int], batch: int = 1, element_bytes: int = 2, train: bool = False
) -> int:
    """Bytes that a step moves at least, by the list of :func:`operations`."""
    elements = sum(each.elements for each in operations(arch, shape, batch))
    return elements * element_bytes * (BACKWARD if train else 1)


def floor_seconds(
    arch: Arch,
    shape: tuple[int, int],
    batch: int,
    peak: Peak,
    element_bytes: int = 2,
    train: bool = False,
) -> float:
    """Seconds that a step takes at least: each operation is bound by arithmetic or by memory.

    Args:
        arch: The architecture.
        shape: Height and width of the input, in pixels.
        batch: Number of images.
        peak: What the processor can do.
        element_bytes: Bytes of one number in memory.
        train: Whether there is a backward pass.
    """
    once = math.fsum(
        max(2 * each.macs / peak.flops, each.elements * element_bytes / peak.bandwidth)
        for each in operations(arch, shape, batch)
    )
    return once * (BACKWARD if train else 1)
