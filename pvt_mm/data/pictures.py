"""Samples as they leave the pipeline, drawn with their boxes, masks or label colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from pvt_mm.data.dataset_sources import labels_come_last
from pvt_mm.data.sample_checks import check_masks, describe
from pvt_mm.data.targets import initialise
from pvt_mm.files import replacing
from pvt_mm.results import draw_sample

__all__ = ["draw_grid", "draw_input"]

COLUMNS = 4
TILE = 3.2  # inches


def draw_input(item: Mapping[str, Any], dataset: BaseDataset, cfg: Config) -> np.ndarray:
    """Draw one sample as the pipeline leaves it.

    Args:
        item: What the pipeline packs: 'inputs' and 'data_samples'; of several views the first.
        dataset: Whose classes and pipeline these are.
        cfg: The config, whose model says in which order the colours are.

    Returns:
        The picture, BGR. Labels that the pipeline loads after it has resized the image, as mm's
        tests do, are drawn on the image in its own size.
    """
    image, sample = item["inputs"], item["data_samples"]
    if isinstance(image, (list, tuple)):
        image, sample = image[0], sample[0]
    pixels = image.permute(1, 2, 0).clamp(0, 255).byte().numpy()[..., :3]
    if pixels.shape[2] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    if not cfg.model.get("data_preprocessor", {}).get("bgr_to_rgb", True):
        pixels = pixels[..., ::-1]
    if labels_come_last(dataset):
        height, width = sample.get("img_shape", pixels.shape)[:2]
        size = tuple(sample.ori_shape[1::-1])
        pixels = cv2.resize(np.ascontiguousarray(pixels[:height, :width]), size)
    pixels = np.ascontiguousarray(pixels)
    drawn = draw_sample(pixels, sample, dataset.metainfo)
    return pixels if drawn is None else drawn


def draw_grid(cfg: Config, datasets: Mapping[str, BaseDataset], path: Path, count: int = 8) -> None:
    """Draw some samples of data sets side by side, in one PNG.

    Args:
        cfg: The config.
        datasets: The data sets, by the name that stands above their samples.
        path: The picture; one that is there is replaced.
        count: How many samples of each, evenly spread.
    """
    tiles: list[tuple[str, Any]] = []
    for name, dataset in datasets.items():
        if not initialise(dataset):
            continue
        many = min(count, len(dataset))
        for number in range(many):
            tiles.append(_tile(cfg, name, dataset, number * len(dataset) // many))
        tiles += [("", None)] * (-many % COLUMNS)  # each data set begins a row
    rows = max(1, len(tiles) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * TILE, rows * TILE), layout="constrained")
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, (title, content) in zip(figure.axes, tiles, strict=False):
        axes.set_title(title, fontsize=7)
        if isinstance(content, str):
            axes.text(0, 0.5, textwrap.fill(content, 40), fontsize=7, transform=axes.transAxes)
        elif content is not None:
            axes.imshow(content[..., ::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _tile(
    cfg: Config, name: str, dataset: BaseDataset, index: int
) -> tuple[str, np.ndarray | str | None]:
    """Return a sample's title and its picture, or why there is none."""
    info = dataset.get_data_info(index)
    title = f"{name}\n{Path(str(info.get('img_path', index))).name}"
    try:
        if "instances" in info:
            check_masks({**info, "instances": [i for i in info["instances"] if "mask" in i]})
        item = type(dataset).prepare_data(dataset, index)
        # Mosaics and crops ask for another sample.
        return title, None if item is None else draw_input(item, dataset, cfg)
    except Exception as error:  # whatever a transform raises; the picture is to show the others
        return title, describe(error)


def _labels_come_last(dataset: BaseDataset) -> bool:
    """Whether the pipeline loads labels after it has resized the image."""
    transforms = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    names = [type(transform).__name__ for transform in transforms]
    resized = [index for index, name in enumerate(names) if "Resize" in name]
    loaded = [index for index, name in enumerate(names) if "LoadAnnotations" in name]
    return bool(resized and loaded) and min(loaded) > max(resized)
