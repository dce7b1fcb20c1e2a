"""Weights and inputs that need no file: drawn from a generator seeded by the tensor's name."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from pvt_mm.backbones import ARCHS, PVT, PVTv2

DATA = Path(__file__).parent / "data"
STATE_DICTS = json.loads((DATA / "official_state_dicts.json").read_text())


def procedural_tensor(key, shape):
    """The weights behind ``official_features.npz``, for one official key."""
    x = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
    if key.endswith(".bias"):
        x = 0.02 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x
    elif "pos_embed" in key:
        x = 0.1 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def official_state_dict(name):
    """The whole classification state dict of a release, with procedural weights."""
    shapes = STATE_DICTS[name]["classification"]
    return {key: procedural_tensor(key, shape) for key, shape in shapes.items()}


def procedural_image(height, width, channels=3, batch=1):
    """Input of standard normal values."""
    x = np.random.RandomState(0).standard_normal((batch, channels, height, width))
    return torch.from_numpy(x.astype(np.float32))


def build(name, **kwargs):
    """A backbone by its release name, in eval mode, weights as PyTorch leaves them."""
    arch = ARCHS[name]
    if arch.version == 1:
        return PVT(name.removeprefix("pvt_"), **kwargs).eval()
    return PVTv2(name.removeprefix("pvt_v2_"), **kwargs).eval()


def build_procedural(name, **kwargs):
    """A backbone by its release name, in eval mode, with procedural weights."""
    model = build(name, **kwargs)
    state = {k: procedural_tensor(k, v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model
