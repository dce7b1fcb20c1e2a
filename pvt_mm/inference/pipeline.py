"""A config's test pipeline, for images that come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import cv2
import numpy as np
from mmengine.dataset import Compose
from mmengine.fileio import get
from mmengine.registry import DefaultScope

from pvt_mm.config.models import scales_of
from pvt_mm.data.checks.images import decode
from pvt_mm.data.dataset_sources import Source
from pvt_mm.errors import UserError
from pvt_mm.version import __version__
from pvt_mm.wording import one_line

__all__ = ["Pipeline", "UnreadableError", "is_url"]

TIMEOUT = 30  # seconds without a byte


class UnreadableError(UserError):
    """An image or a video cannot be read, or not be predicted."""


def is_url(path: str) -> bool:
    """Whether a path names something on the network."""
    return path.startswith(("http://", "https://"))


class Pipeline:
    """Reads images as a config's test pipeline does, and prepares arrays as it does.

    What the pipeline loads besides the image, such as annotations, is left out.

    Args:
        source: The config's test set.
        scope: ``mmdet`` or ``mmseg``.
        channels: How many the network takes.

    Raises:
        UserError: If the pipeline does not begin with an image file.
    """

    def __init__(self, source: Source, scope: str, channels: int = 3) -> None:
        steps = [dict(step) for step in source.config["pipeline"]]
        steps = [step for step in steps if "Annotations" not in _name(step)]
        if not steps or _name(steps[0]) != "LoadImageFromFile":
            raise UserError("the config's test pipeline does not begin with LoadImageFromFile")
        load = {"type": f"{scope}.LoadImageFromNDArray", "to_float32": steps[0].get("to_float32")}
        with DefaultScope.overwrite_default_scope(scope):
            self._apply = Compose([load, *steps[1:]])
        self._reader, self._channels = source.image_reader(), channels
        self.side = _shorter_side(steps)

    def read(self, path: str) -> np.ndarray:
        """Read an image file.

        Args:
            path: A file, a URL, or whatever else mmengine can read from.

        Returns:
            ``(H, W, 3)`` uint8, BGR; or as many channels as the network takes.

        Raises:
            UnreadableError: If that is not possible.
        """
        try:
            image = decode(_fetch(path), self._reader.color_type, self._reader.backend)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableError(f"{path}: {reason}") from error
        if isinstance(image, str):
            raise UnreadableError(f"{path}: {image}")
        wanted = self._channels
        if image.ndim != 3 or image.shape[2] != wanted or image.dtype != np.uint8:
            found = f"{image.dtype} {image.shape} is no image of {wanted} channels"
            raise UnreadableError(f"{path}: {found}")
        return image

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Return what the network takes: ``inputs`` ``(3, h, w)`` and ``data_samples``.

        Raises:
            UnreadableError: If a step does not take it: of an elongated image, resizing may leave
                nothing.
        """
        try:
            return self._apply({"img": image, "img_id": 0})
        except (cv2.error, ArithmeticError, ValueError) as error:
            height, width = image.shape[:2]
            raise UnreadableError(
                f"the pipeline cannot take {width} x {height} pixels ({one_line(error)})"
            ) from error


def _fetch(path: str) -> bytes:
    if not is_url(path):
        return get(str(Path(path).expanduser()) if "://" not in path else path)
    request = Request(path, headers={"User-Agent": f"pvt_mm/{__version__}"})
    with urlopen(request, timeout=TIMEOUT) as response:
        return response.read()


def _name(step: Mapping) -> str:
    kind = step["type"]
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def _shorter_side(steps: list[dict]) -> int | None:
    """Return the side of a square that the pipeline leaves as large as it is, if it resizes."""
    for step in steps:
        if "Resize" in _name(step) and (scales := scales_of(step)):
            return min(scales[0])
    return None
