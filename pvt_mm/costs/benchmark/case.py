"""What is measured: one model, one input, one kind of step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pvt_mm.backbones import ARCHS
from pvt_mm.backbones.pvt import MIN_SIZE

__all__ = ["DTYPES", "MODES", "Case"]

MODES = ("inference", "backward", "train")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One thing to measure, the same for every contender.

    Args:
        model: A name of :data:`pvt_mm.backbones.ARCHS`, or the path of a config.
        shape: Height and width of the input, in pixels; for a config, None takes its own.
        batch: Images per step.
        mode: ``'inference'``, ``'backward'`` (forward and backward) or ``'train'`` (the same, and
            a step of AdamW).
        dtype: ``'float32'``, or what autocast computes in; the weights stay float32.
        device: ``'cpu'`` or ``'cuda'``.
        compile: Whether every contender goes through ``torch.compile``.
        dynamic: Whether ``torch.compile`` is told to expect other shapes.
        with_cp: Whether pvt_mm recomputes activations in the backward pass; the others do not.
        threads: Threads of torch; None leaves torch's own choice.

    Raises:
        ValueError: If a value is out of range.
    """

    model: str
    shape: tuple[int, int] | None = (800, 1344)
    batch: int = 1
    mode: str = "inference"
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False
    dynamic: bool = False
    with_cp: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.shape is not None and min(self.shape) < MIN_SIZE:
            raise ValueError(
                f"shape must be at least {MIN_SIZE}x{MIN_SIZE} pixels, got {self.shape}"
            )
        if not self.is_config and self.model not in ARCHS:
            raise ValueError(
                f"model {self.model!r} is neither a config (.py) nor one of {', '.join(ARCHS)}"
            )
        if not self.is_config and self.shape is None:
            raise ValueError("shape is needed for an architecture")

    @property
    def is_config(self) -> bool:
        """Whether ``model`` is a config file, not an architecture."""
        return self.model.endswith(".py")

    @property
    def label(self) -> str:
        """The case in a few words, for tables."""
        name = Path(self.model).stem if self.is_config else self.model
        size = "{}x{}".format(*self.shape) if self.shape else "the config's size"
        words = [name, self.mode, f"{size} batch {self.batch}", self.dtype, self.device]
        flags = ("compile", "dynamic", "with_cp")
        return ", ".join(words + [flag for flag in flags if getattr(self, flag)])

    def to_dict(self) -> dict[str, Any]:
        """The case as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        """The reverse of :meth:`to_dict`."""
        shape = values.get("shape")
        return cls(**{**values, "shape": tuple(shape) if shape else None})
