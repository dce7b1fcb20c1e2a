"""Fast ways to compute what :mod:`pvt_mm.backbones` computes plainly."""

from pvt_mm.lazy import lazily

__all__ = ["Acceleration", "accelerate", "restore"]

__getattr__, __dir__ = lazily(
    __name__, {name: ".swapping" for name in ("Acceleration", "accelerate", "restore")}
)
