"""What a config's preprocessor makes of an image's size, and what its backbone needs."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config

__all__ = [
    "LEAST",
    "has_pvt",
    "least_side",
    "network_config",
    "padded_size",
    "picks_queries",
    "preprocessor_config",
    "preprocessor_kind",
    "token_count",
]

# What PVTs need, as their forward checks it.
LEAST = 32
PREPROCESSORS = ("DetDataPreprocessor", "SegDataPreProcessor")


def least_side(cfg: Config, split: str) -> int:
    """Return how many pixels a side must have after the pipeline, as far as the config says."""
    if padded_size((1, 1), cfg, split) == (1, 1) and has_pvt(cfg):
        return LEAST
    return 1


def padded_size(size: tuple[int, int], cfg: Config, split: str) -> tuple[int, int] | None:
    """Return height and width as the network gets them; None for an unknown preprocessor."""
    preprocessor, kind = preprocessor_config(cfg), preprocessor_kind(cfg)
    if kind not in PREPROCESSORS:
        return None
    least, divisor = None, preprocessor.get("pad_size_divisor") or 1
    if kind == "SegDataPreProcessor":
        settings = preprocessor if split == "train" else preprocessor.get("test_cfg") or {}
        least, divisor = settings.get("size"), settings.get("size_divisor") or 1
    if least:
        return max(size[0], least[0]), max(size[1], least[-1])
    return tuple(-(-side // divisor) * divisor for side in size)


def network_config(cfg: Config) -> Mapping:
    """Return the network's config, without a wrapper of test-time augmentation."""
    return cfg.model.get("module") or cfg.model


def preprocessor_config(cfg: Config) -> Mapping:
    """Return the data preprocessor's config; an empty one if there is none."""
    return network_config(cfg).get("data_preprocessor") or cfg.get("data_preprocessor") or {}


def preprocessor_kind(cfg: Config) -> str:
    """Name the data preprocessor's type, without its scope."""
    return str(preprocessor_config(cfg).get("type")).rpartition(".")[2]


def has_pvt(cfg: Config) -> bool:
    """Whether the backbone is one of ours."""
    kind = (network_config(cfg).get("backbone") or {}).get("type")
    name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    return name in ("PVT", "PVTv2")


def picks_queries(network: Mapping) -> bool:
    """Whether the detector takes the best of its tokens as queries, so that it needs as many."""
    kind = str(network.get("type")).rpartition(".")[2]
    return kind in ("DINO", "DDQDETR") or bool(network.get("as_two_stage"))


def token_count(network: Mapping, size: tuple[int, int]) -> int:
    """Count the tokens of all levels that a detector's encoder gets of a PVT's maps.

    Args:
        network: The detector's config.
        size: Height and width of the image, in pixels.
    """
    strides = [4 << stage for stage in network["backbone"].get("out_indices", range(4))]
    for _ in range((network.get("neck") or {}).get("num_outs", 0) - len(strides)):
        strides.append(2 * strides[-1])
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)
