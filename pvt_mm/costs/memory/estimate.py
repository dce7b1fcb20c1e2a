"""From what is kept to what a GPU needs."""

from __future__ import annotations

from dataclasses import dataclass

from mmengine.config import Config
from torch import nn

from pvt_mm.backbones.block import Block
from pvt_mm.config.models import build_model
from pvt_mm.costs.memory.activations import count_activations
from pvt_mm.training.amp import is_amp

__all__ = ["OVERHEAD", "Estimate", "estimate"]

GIB = 2**30
# The losses, the gradients that flow and cuDNN's workspaces: the one fitted number, the mean of
# what seven published figures leave over. See docs/scaling.md.
OVERHEAD = int(0.82 * GIB)
STATES = {"AdamW": 8, "Adam": 8, "SGD": 4}  # bytes of optimizer state for a parameter


@dataclass(frozen=True)
class Estimate:
    """Peak memory of training on one GPU, in bytes, as torch's allocator counts it.

    Attributes:
        weights: Parameters and buffers.
        gradients: Gradients, and the buckets in which they travel between GPUs.
        optimizer: The optimizer's state.
        activations: What the forward pass keeps.
        overhead: Everything else, the same for all models.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.overhead


def estimate(
    cfg: Config,
    shape: tuple[int, int],
    batch: int,
    gpus: int = 8,
    amp: bool | None = None,
    keeps_softmax_inputs: bool = False,
) -> Estimate:
    """Estimate what training by a config needs on each GPU.

    Args:
        cfg: A config of mmdet, mmseg or a classifier; ``with_cp`` is taken out of it.
        shape: Height and width of the largest batch in pixels.
        batch: Images on each GPU.
        gpus: GPUs.
        amp: Mixed precision; by default what the config says.
        keeps_softmax_inputs: Whether torch is older than 1.11, as where others measured.
    """
    wrapper = cfg.optim_wrapper
    if amp is None:
        amp = is_amp(wrapper)
    recomputes = _pop_recompute(cfg)
    model = build_model(cfg, preprocess=False).to("meta").train()
    counted = count_activations(model, shape, batch, amp)
    kept = counted.recomputed if recomputes else counted.kept
    if keeps_softmax_inputs:
        kept += counted.softmax_inputs
    everything, trained = _bytes(model), _bytes(model, trained=True)
    states = trained // 4 * STATES[wrapper.optimizer.type]
    if (cfg.get("strategy") or {}).get("type") == "FSDPStrategy":
        # Besides its shard a GPU holds, whole, two blocks and all that is no block.
        blocks = [_bytes(module) for module in model.modules() if isinstance(module, Block)]
        whole = everything - sum(blocks) + 2 * max(blocks, default=0)
        return Estimate(everything // gpus + whole, trained // gpus + whole, states // gpus, kept)
    buckets = trained if gpus > 1 else 0
    return Estimate(everything, trained + buckets, states, kept)


def _pop_recompute(cfg: Config) -> bool:
    """Whether blocks are recomputed; what is counted then runs without it."""
    strategy = cfg.get("strategy") or {}
    inside = cfg.model.backbone.pop("with_cp", False)
    return bool(inside or strategy.get("activation_checkpointing"))


def _bytes(module: nn.Module, trained: bool = False) -> int:
    parameters = (p for p in module.parameters() if p.requires_grad or not trained)
    return sum(p.nbytes for p in parameters)
