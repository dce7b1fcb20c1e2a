"""Videos, frame by frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import mmcv
import numpy as np

from pvt_mm.errors import UserError
from pvt_mm.inference.pipeline import UnreadableError

__all__ = ["VideoWriter", "frame_count", "frame_rate", "read_frames"]

DEFAULT_RATE = 25.0  # frames a second, for videos that do not say


def read_frames(path: str) -> Iterator[np.ndarray]:
    """Yield the frames of a video, ``(H, W, 3)`` uint8, BGR; a few are held in memory.

    Raises:
        UnreadableError: If there are none, or, at the end, if there are fewer than the file says.
    """
    count = 0
    with _open(path) as video:
        for frame in video:
            count += 1
            yield frame
        announced = video.frame_cnt
    if not count:
        raise UnreadableError(f"{path}: no video that can be decoded")
    # Some containers give an estimate from length and frame rate.
    if count < announced - max(2, announced // 100):
        raise UnreadableError(f"{path}: only {count} of {announced} frames can be decoded")


def frame_count(path: str) -> int:
    """Return how many frames the file says that it has, at least 1."""
    with _open(path) as video:
        return max(1, video.frame_cnt)


def frame_rate(path: str) -> float:
    """Return the frames a second that the file says it has."""
    with _open(path) as video:
        return video.fps if video.fps > 0 else DEFAULT_RATE


def _open(path: str) -> mmcv.VideoReader:
    try:
        return mmcv.VideoReader(path)
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: No such file or directory") from error


class VideoWriter:
    """Writes an mp4 that takes its place once it is closed.

    Args:
        path: The video.
        rate: Frames a second.
        size: Height and width of the frames, in pixels.

    Raises:
        UserError: If OpenCV cannot write videos here.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        self.path = path
        # OpenCV chooses the format by the suffix.
        self.partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        fourcc = cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self.partial), fourcc, rate, size[::-1])
        if not self._writer.isOpened():
            raise UserError(f"{path}: OpenCV cannot write mp4 here; --no-vis leaves it out")

    def add(self, frame: np.ndarray) -> None:
        """Write the next frame, ``(H, W, 3)`` uint8, BGR."""
        self._writer.write(frame)

    def close(self) -> None:
        """End the file and put it in its place."""
        self._writer.release()
        os.replace(self.partial, self.path)
