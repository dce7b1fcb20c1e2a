"""Checkpoints: read without executing anything, mapped to our names, loaded strictly.

Importing ``pvt_mm`` makes mmengine itself read every checkpoint this way.
"""

from pvt_mm.lazy import lazily

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

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CheckpointError": "..errors",
        "DamagedCheckpointError": "..errors",
        "DownloadError": "..errors",
        "RefusedCheckpointError": "..errors",
        "load_pretrained": ".pretrained",
        "map_classifier": ".key_mapping",
        "map_state_dict": ".key_mapping",
        "recognise_arch": ".key_mapping",
        "safe_load": ".reading",
    },
)
