"""What an evaluation of predictions yields, for detection and segmentation alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from pvt_mm.config.loading import is_segmentation
from pvt_mm.data.data_checks import check_data
from pvt_mm.errors import UserError, some
from pvt_mm.reporting.confusion import Confusion

__all__ = [
    "Evaluation",
    "ImageScore",
    "Table",
    "build_test_set",
    "check_same_images",
    "display_size",
]

LEGIBLE = 640  # pixels of a picture's longer side


@dataclass(frozen=True)
class ImageScore:
    """How well one image went.

    Args:
        index: Its place in the test set.
        name: Its file's name.
        score: The higher the better.
        weight: How much there is in it; of two images with equal scores the fuller one is shown.
        summary: What was found and what was missed.
    """

    index: int
    name: str
    score: float
    weight: float
    summary: str


@dataclass(frozen=True)
class Table:
    """Numbers by class.

    Args:
        columns: Headings, the first one that of the classes.
        rows: A class's name and its numbers; None where there is nothing to count.
        note: What the numbers mean.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str


@dataclass(frozen=True)
class Evaluation:
    """The predictions on a test set against its annotations.

    Args:
        metrics: Numbers over all classes, by name.
        table: Numbers by class.
        confusion: What is taken for what.
        images: Those that can be ranked.
        score_name: What ranks them.
        draw: Makes two pictures of an image, annotations and predictions, ``(H, W, 3)`` RGB.
        doubts: Where the metrics rest on nothing, or on a part of the classes.
        legend: What the pictures' colours mean, in CSS's words, where they don't say it.
    """

    metrics: dict[str, float]
    table: Table
    confusion: Confusion
    images: list[ImageScore]
    score_name: str
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]]
    doubts: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)

    def extremes(self, count: int) -> tuple[list[ImageScore], list[ImageScore]]:
        """Return the best and the worst images, the most extreme first; none is in both."""
        ranked = sorted(self.images, key=lambda image: (image.score, -image.weight))
        worst = ranked[: min(count, (len(ranked) + 1) // 2)]
        best = sorted(ranked[len(worst) :], key=lambda image: (-image.score, -image.weight))
        return best[:count], worst


def build_test_set(cfg: Config) -> BaseDataset:
    """Build the test set of a config, without its pipeline.

    Raises:
        UserError: If the config has none, its files are missing, or it is a wrapper of several.
    """
    if cfg.get("test_dataloader") is None:
        raise UserError("the config has no test_dataloader, so that nothing can be evaluated")
    check_data(cfg, ("test",))
    config = cfg.test_dataloader.dataset
    if "dataset" in config or "datasets" in config:
        raise UserError(
            f"the page can't show a test set of type {config.get('type')}, only plain ones"
        )
    scope = "mmseg" if is_segmentation(cfg) else "mmdet"
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return registry.build({**config, "pipeline": []})


def check_same_images(predictions: Path, found: Iterable[str], wanted: Iterable[str]) -> None:
    """Check that predictions are those of the test set's images.

    Args:
        predictions: The file or folder, for the message.
        found: Names of the images in it.
        wanted: Names of the test set's images.

    Raises:
        UserError: If an image is missing or foreign.
    """
    found, wanted = set(found), set(wanted)
    for what, names in (("lacks", wanted - found), ("has", found - wanted)):
        if names:
            raise UserError(
                f"--predictions {predictions}: not of this run's test set, it {what} "
                f"{some(sorted(names))}; make it with tools/test.py and the config of the run"
            )


def display_size(height: int, width: int) -> tuple[int, int]:
    """Return the size, height first, at which an image is shown."""
    scale = LEGIBLE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
