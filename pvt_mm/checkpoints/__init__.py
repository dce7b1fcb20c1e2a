"""Checkpoints: read without executing anything, mapped to our names, loaded strictly.

Importing ``pvt_mm`` makes mmengine itself read every checkpoint this way.
"""

from .errors import CheckpointError, DamagedCheckpointError, DownloadError, RefusedCheckpointError
from .key_mapping import map_classifier, map_state_dict, recognise_arch
from .pretrained import load_pretrained
from .safe_load import safe_load

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "DownloadError",
    "RefusedCheckpointError",
    "load_pretrained",
    "map_classifier",
    "map_state_dict",
    "recognise_arch",
    "safe_load",
]
