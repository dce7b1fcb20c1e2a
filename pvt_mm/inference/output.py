"""The folder of results: pictures, COCO's JSON or label maps, each file whole or not there."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_masks

from pvt_mm.files import replacing
from pvt_mm.inference.inputs import Input
from pvt_mm.inference.predictor import Result
from pvt_mm.inference.video import VideoWriter, frame_rate
from pvt_mm.results import Detection

__all__ = ["CocoFile", "Output"]


class Output:
    """Writes what is found, input by input and frame by frame.

    Used as a context manager, it leaves valid files however the block ends.

    Args:
        folder: Where all goes.
        class_names: The classes.
        category_ids: The id of each in COCO files.
        is_segmentor: Whether results are label maps.
        pictures: Whether to draw.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        is_segmentor: bool,
        pictures: bool = True,
    ) -> None:
        self.folder, self.pictures = folder, pictures
        self.class_names = class_names
        self.counts: Counter[int] = Counter()  # objects or pixels by class
        path = folder / "results.json"
        self._coco = None if is_segmentor else CocoFile(path, class_names, category_ids)
        self._video: tuple[Input, VideoWriter] | None = None

    def __enter__(self) -> Output:
        return self

    def add(self, source: Input, frame: int, image: np.ndarray, result: Result) -> None:
        """Write what was found in an image, or in a frame of a video.

        Args:
            source: Where the image is from.
            frame: Its number in the video, from 0 on; 0 for an image.
            image: The image.
            result: What was found.
        """
        if self._video and self._video[0] != source:
            self._close_video()
        if isinstance(result, Detection):
            self._coco.add(source, frame, image.shape[:2], result)
            self.counts.update(result.labels.tolist())
        else:
            name = f"{source.name}/{frame:06d}" if source.is_video else source.name
            _write_image(self.folder / "labels" / f"{name}.png", result.labels)
            labels, pixels = np.unique(result.labels, return_counts=True)
            self.counts.update(dict(zip(labels.tolist(), pixels.tolist(), strict=True)))
        if self.pictures:
            self._draw(source, result.draw(image[..., :3]))

    def by_class(self) -> dict[str, int]:
        """Return how many objects, or pixels, of each class there were."""
        return {name: self.counts[index] for index, name in enumerate(self.class_names)}

    def _draw(self, source: Input, picture: np.ndarray) -> None:
        if not source.is_video:
            _write_image(self.folder / "vis" / f"{source.name}.jpg", picture)
            return
        if self._video is None:
            path = self.folder / "vis" / f"{source.name}.mp4"
            path.parent.mkdir(exist_ok=True)
            rate = frame_rate(source.path)
            self._video = source, VideoWriter(path, rate, picture.shape[:2])
        self._video[1].add(picture)

    def _close_video(self) -> None:
        if self._video:
            self._video[1].close()
            self._video = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_video()
        if self._coco:
            self._coco.close()


class CocoFile:
    """A COCO file of detections that grows on the disk, not in memory.

    Image ids count from 1 in the order of the images.

    Args:
        path: The file; it is there once :meth:`close` is called.
        class_names: The classes.
        category_ids: The id of each.
    """

    def __init__(self, path: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.path = path
        pairs = zip(category_ids, class_names, strict=True)
        self.categories = [{"id": number, "name": name} for number, name in pairs]
        self._parts = {name: _Items(path.parent) for name in ("images", "annotations")}

    def add(self, source: Input, frame: int, size: tuple[int, int], found: Detection) -> None:
        """Add an image, or a frame, with its objects."""
        images, annotations = self._parts["images"], self._parts["annotations"]
        image = {"id": images.count + 1, "file_name": source.path}
        if source.is_video:
            image |= {"file_name": f"{source.path}#{frame}", "video": source.path, "frame": frame}
        images.add([{**image, "height": size[0], "width": size[1]}])
        first = annotations.count + 1
        annotations.add(
            [
                {
                    "id": first + index,
                    "image_id": image["id"],
                    "category_id": self.categories[int(found.labels[index])]["id"],
                    **_annotation(found, index),
                }
                for index in range(len(found))
            ]
        )

    def close(self) -> None:
        """Put the parts together."""
        with replacing(self.path) as partial, partial.open("wb") as file:
            file.write(b'{"categories": ' + json.dumps(self.categories).encode())
            for name, items in self._parts.items():
                file.write(f',\n"{name}": [\n'.encode())
                items.copy_to(file)
                file.write(b"]")
            file.write(b"}\n")


class _Items:
    """The items of a JSON list, in a file without a name that the system removes."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115

    def add(self, items: Sequence[dict[str, Any]]) -> None:
        lines = [json.dumps(item, separators=(",", ":")) for item in items]
        if lines:
            self._file.write(((",\n" if self.count else "") + ",\n".join(lines)).encode())
            self.count += len(lines)

    def copy_to(self, file: Any) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)
        self._file.close()


def _annotation(found: Detection, index: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in found.boxes[index])
    box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
    annotation = {
        "bbox": box,
        "area": round(box[2] * box[3], 3),
        "iscrowd": 0,
        "score": round(float(found.scores[index]), 6),
    }
    if found.masks is not None:
        mask = found.masks[index]
        annotation["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        annotation["area"] = int(coco_masks.area(mask))
    return annotation


def _write_image(path: Path, image: np.ndarray) -> None:
    _, content = cv2.imencode(path.suffix, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)
