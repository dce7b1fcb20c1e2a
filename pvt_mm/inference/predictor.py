"""A trained detector or segmentor as a function from images to results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement

from pvt_mm.backbones import PVT, PVTv2
from pvt_mm.devices import choose_device
from pvt_mm.errors import InputSizeError, UserError
from pvt_mm.inference.gathering import gather
from pvt_mm.inference.model import load_model
from pvt_mm.inference.pipeline import Pipeline, UnreadableError
from pvt_mm.inference.tiles import tiles
from pvt_mm.results import Detection, Segmentation, resize
from pvt_mm.runtimes import is_exported
from pvt_mm.training.amp import float32_boxes

__all__ = ["Image", "Predictor", "Result"]

Image = str | os.PathLike | np.ndarray
Result = Detection | Segmentation

MIN_TILE = 64  # pixels
DEFAULT_TILE = 1024  # pixels, where the pipeline does not say to what it resizes
OUT_OF_MEMORY = (
    "the GPU ran out of memory; lower --batch-size, shrink large images by --max-size, or cut them "
    "by --tile"
)


class Predictor:
    """Predicts objects, or the classes of pixels, in images.

    The test pipeline is the config's; images of a batch are predicted together if the pipeline
    makes them equally large, so that a result does not depend on its neighbours.

    Args:
        config: A detection or segmentation config: a file, or as mmengine has read it.
        checkpoint: A file or a URL that holds the whole network. It is loaded strictly, and
            nothing in it is executed. Or a ``.onnx`` or ``.xml`` file of ``tools/export.py``.
        device: Such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        batch_size: How many images, or tiles, are predicted together.
        score_thr: Objects of a lower score are left out.
        max_size: Images whose longer side is longer are shrunk to it, in pixels, before all else;
            results are in pixels of the image as it was given all the same.
        tile: Cut larger images into tiles of this side, in pixels, and join the results;
            ``"auto"`` takes the side that the pipeline does not resize.
        tile_overlap: Least share of a tile that its neighbour covers, too. Objects that are
            longer than this may be found in pieces.
        amp: Compute in mixed precision, on CPUs in bfloat16.
        dtype: ``'float32'`` or ``'bfloat16'``, where the processor has instructions for it; by
            default float32, of an exported file its own.
        cfg_options: Changes of the config, by dotted key.

    Attributes:
        class_names: The classes that the network knows.
        category_ids: The data set's own id of each class; from 1 on if it has none.
        is_segmentor: Whether results are segmentations; otherwise they are detections.

    Raises:
        UserError: If something is missing or does not fit, in one line.
        CheckpointError: If the checkpoint cannot be had or read.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        device: str | torch.device | None = None,
        *,
        batch_size: int = 1,
        score_thr: float = 0.3,
        max_size: int | None = None,
        tile: int | str | None = None,
        tile_overlap: float = 0.25,
        amp: bool = False,
        dtype: str | None = None,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_at_least("--batch-size", batch_size, 1)
        if max_size is not None:
            _check_at_least("--max-size", max_size, MIN_TILE)
        if tile not in (None, "auto"):
            _check_at_least("--tile", tile, MIN_TILE)
        if not 0 <= tile_overlap < 0.9:
            raise UserError(f"--tile-overlap must be from 0 to below 0.9, got {tile_overlap}")
        self.batch_size, self.score_thr, self.max_size = batch_size, score_thr, max_size
        self.tile_overlap, self.amp = tile_overlap, amp
        self.device = choose_device("cpu" if device is None and is_exported(checkpoint) else device)
        if amp and dtype:
            raise UserError("--amp and --dtype exclude each other")
        self._model = load_model(config, checkpoint, self.device, cfg_options, dtype)
        backbone = getattr(self._model.network, "backbone", None)
        self._channels = backbone.in_channels if isinstance(backbone, (PVT, PVTv2)) else 3
        self._pipeline = Pipeline(self._model.source, self._model.scope, self._channels)
        self.tile = (self._pipeline.side or DEFAULT_TILE) if tile == "auto" else tile
        self.class_names = self._model.class_names
        self.category_ids = self._model.category_ids
        self.is_segmentor = self._model.is_segmentor
        if amp:
            float32_boxes(self._model.network)

    def __call__(self, images: Image | Iterable[Image]) -> Result | list[Result]:
        """Predict images.

        Args:
            images: A path, an array ``(H, W, 3)`` uint8 in BGR as mm has it, or several of these.

        Returns:
            One result for one image, a list for several.

        Raises:
            UnreadableError: If an image cannot be read; it is a UserError.
            ValueError: If an array is no such image.
        """
        if isinstance(images, (str, os.PathLike, np.ndarray)):
            return next(self.stream([images]))
        return list(self.stream(images))

    def stream(self, images: Iterable[Image]) -> Iterator[Result]:
        """Yield the results one by one; no more than a batch of images is held in memory."""
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            yield from self.predict(
                [image if isinstance(image, np.ndarray) else self.read(image) for image in batch]
            )

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Read an image as the config's pipeline does: ``(H, W, 3)`` uint8, BGR.

        Raises:
            UnreadableError: If that is not possible.
        """
        return self._pipeline.read(str(path))

    def predict(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Predict arrays ``(H, W, 3)``, all of which are held in memory.

        Raises:
            UnreadableError: If one is too small for the network, or too elongated.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != self._channels or image.dtype != np.uint8:
                wanted = f"(H, W, {self._channels}) uint8" + " in BGR" * (self._channels == 3)
                raise ValueError(f"an image is {wanted}, but got {image.shape} {image.dtype}")
        smaller = [self._shrunk(image) for image in images]
        sizes = [image.shape[:2] for image in smaller]
        layouts = [tiles(*size, self.tile, self.tile_overlap) for size in sizes]
        jobs = [(index, tile) for index, layout in enumerate(layouts) for tile in layout]
        gathered = [
            gather(self._model, layout, size, self.score_thr)
            for layout, size in zip(layouts, sizes, strict=True)
        ]
        for start in range(0, len(jobs), self.batch_size):
            chunk = jobs[start : start + self.batch_size]
            samples = self._forward([tile.cut(smaller[index]) for index, tile in chunk])
            for (index, tile), sample in zip(chunk, samples, strict=True):
                gathered[index].add(tile, sample)
        return [
            _enlarged(one.result(), size, image.shape[:2])
            for one, size, image in zip(gathered, sizes, images, strict=True)
        ]

    def _shrunk(self, image: np.ndarray) -> np.ndarray:
        longer = max(image.shape[:2])
        if self.max_size is None or longer <= self.max_size:
            return image
        sides = [max(1, round(side * self.max_size / longer)) for side in image.shape[1::-1]]
        return cv2.resize(image, sides, interpolation=cv2.INTER_AREA)

    @torch.inference_mode()
    def _forward(self, images: Sequence[np.ndarray]) -> list[BaseDataElement]:
        packed = [self._pipeline(image) for image in images]
        # The network would pad images of different sizes, and attention sees the padding.
        alike: dict[tuple, list[int]] = {}
        for index, one in enumerate(packed):
            alike.setdefault(tuple(one["inputs"].shape), []).append(index)
        samples: dict[int, BaseDataElement] = {}
        for indices in alike.values():
            batch = {key: [packed[index][key] for index in indices] for key in packed[0]}
            with DefaultScope.overwrite_default_scope(self._model.scope), self._autocast():
                try:
                    found = self._model.network.test_step(batch)
                except torch.cuda.OutOfMemoryError as error:
                    raise UserError(OUT_OF_MEMORY) from error
                except InputSizeError as error:
                    raise UnreadableError(str(error)) from error
            samples.update(zip(indices, found, strict=True))
        return [samples[index] for index in range(len(packed))]

    def _autocast(self) -> AbstractContextManager:
        if not self.amp:
            return nullcontext()
        dtype = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        return torch.autocast(self.device.type, dtype)


def _enlarged(result: Result, size: tuple[int, int], wanted: tuple[int, int]) -> Result:
    """Express the result of a shrunk image in pixels of the image that was given."""
    if size == wanted:
        return result
    if isinstance(result, Segmentation):
        labels = cv2.resize(result.labels, wanted[::-1], interpolation=cv2.INTER_NEAREST)
        return replace(result, labels=labels)
    factors = np.array([wanted[1] / size[1], wanted[0] / size[0]] * 2, np.float32)
    masks = result.masks and tuple(resize(mask, wanted) for mask in result.masks)
    return replace(result, boxes=result.boxes * factors, masks=masks)


def _check_at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{option} must be at least {least}, got {value}")
