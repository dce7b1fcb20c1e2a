"""The demo data set on disk: COCO detection and instance JSON, and ADE20K-style label maps.

::

    data/demo/
        demo.json                             what was generated; without it there is no data set
        images/{training,validation}/*.png
        annotations/{training,validation}/*.png            label maps
        annotations/instances_{training,validation}.json   boxes and masks

A label map holds 1 for the background and ``2 + k`` for class ``k``. 0 would be unlabelled, as in
ADE20K, and does not occur; read them with ``reduce_zero_label=True``.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from pvt_mm.data.demo.scenes import CLASSES, Scene, make_scene

__all__ = [
    "CLASSES",
    "SEG_CLASSES",
    "DemoSpec",
    "demo_root",
    "label_map",
    "make_demo_data",
    "run_lengths",
]

SEG_CLASSES = ("background", *CLASSES)
SPLITS = ("training", "validation")
MARKER = "demo.json"
# Raise it with every change that alters a pixel or an annotation: older data is then made anew.
VERSION = 1


@dataclass(frozen=True)
class DemoSpec:
    """What to generate.

    Image ``i`` of a split depends on the seed, the split, ``i`` and the size, and not on how
    many others there are.

    Args:
        train: Number of training images.
        val: Number of held-out images.
        size: Side of the square images, in pixels.
        seed: Another seed gives other scenes.

    Raises:
        ValueError: If a number is too small.
    """

    train: int = 1000
    val: int = 200
    size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("train", 1), ("val", 1), ("size", 64), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, but got {value}")


def demo_root() -> str:
    """Where the demo configs look for the data: ``DEMO_ROOT``, or ``data/demo``."""
    return os.environ.get("DEMO_ROOT", "data/demo")


def make_demo_data(out: str | os.PathLike, spec: DemoSpec | None = None) -> bool:
    """Write the demo data set, unless it is already there.

    All is written beside ``out`` and moved there last, so that an interrupted call leaves
    nothing that could be taken for a data set. Data of another spec or of an older generator is
    replaced. Two calls must not write the same folder at the same time.

    Args:
        out: The data set's folder.
        spec: What to generate; ``DemoSpec()`` unless given.

    Returns:
        Whether anything had to be written.

    Raises:
        ValueError: If ``out`` holds something else than a demo data set.
    """
    spec = spec or DemoSpec()
    out = Path(os.path.abspath(out))
    wanted = dict(version=VERSION, **asdict(spec))
    if _read_marker(out) == wanted:
        return False
    if out.exists() and not (out / MARKER).is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(
            f"{out} is not empty and holds no {MARKER}, so it is no demo data set and is left "
            f"alone; name another folder"
        )
    part = out.with_name(f".{out.name}.part")
    old = out.with_name(f".{out.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    for split_id, (split, count) in enumerate(zip(SPLITS, (spec.train, spec.val), strict=True)):
        _write_split(part, split, split_id, count, spec)
    (part / MARKER).write_text(json.dumps(wanted) + "\n")
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return True


def label_map(scene: Scene) -> np.ndarray:
    """The scene's classes per pixel, uint8 ``(S, S)``: 1 background, ``2 + k`` class ``k``."""
    labels = np.ones(scene.image.shape[:2], dtype=np.uint8)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        labels[mask] = 2 + label
    return labels


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed run-length code: lengths of 0s, 1s, 0s, ... down the columns."""
    pixels = mask.flatten(order="F")
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff([0, *starts, pixels.size]).tolist()
    if pixels[0]:
        counts.insert(0, 0)
    return dict(size=list(mask.shape), counts=counts)


def _read_marker(out: Path) -> dict | None:
    try:
        return json.loads((out / MARKER).read_text())
    except (OSError, ValueError):
        return None


def _write_split(root: Path, split: str, split_id: int, count: int, spec: DemoSpec) -> None:
    images_dir = root / "images" / split
    labels_dir = root / "annotations" / split
    images_dir.mkdir(parents=True)
    labels_dir.mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        scene = make_scene((spec.seed, split_id, index), spec.size)
        name = f"{split}_{index:05d}.png"
        _write_png(images_dir / name, scene.image[..., ::-1])
        _write_png(labels_dir / name, label_map(scene))
        image_id = index + 1
        images.append(dict(id=image_id, file_name=name, height=spec.size, width=spec.size))
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            annotation_id = len(annotations) + 1  # from 1: COCOeval takes 0 for "no match"
            annotations.append(_annotation(annotation_id, image_id, int(label), mask))
    content = dict(
        info=dict(description="Synthetic scenes of pvt_mm", version=str(VERSION)),
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content, separators=(",", ":")))


def _annotation(annotation_id: int, image_id: int, label: int, mask: np.ndarray) -> dict:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    width, height = int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=label + 1,
        bbox=[left, top, width, height],
        area=int(mask.sum()),
        iscrowd=0,
        segmentation=run_lengths(mask),
    )


def _write_png(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(image)):
        raise OSError(f"cannot write {path}")
