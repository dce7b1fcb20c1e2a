"""Random numbers that depend on where a training is, and not on how it got there."""

import os
import random

import numpy as np
import torch
from mmengine.config import Config

__all__ = ["make_deterministic", "seed_everything"]

DEFAULT_SEED = 0


def make_deterministic(cfg: Config) -> None:
    """Let a run compute the same every time: ``randomness`` of the config, and cuBLAS.

    Args:
        cfg: The config, changed in place. Its seed stays if it has one.
    """
    randomness = dict(cfg.get("randomness") or {})
    if randomness.get("seed") is None:
        randomness["seed"] = DEFAULT_SEED
    cfg.randomness = {**randomness, "deterministic": True}
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch's notes ask for


def seed_everything(*place: int) -> None:
    """Seed Python's, numpy's and torch's generators by a place in a training.

    Args:
        place: Numbers from 0 that together occur once, the run's seed first. Neighbouring places
            have unrelated random numbers.
    """
    words = np.random.SeedSequence(place).generate_state(2)
    number = int.from_bytes(words.tobytes(), "little")
    random.seed(number)
    np.random.seed(words)
    torch.manual_seed(number)
