"""A segmentor's label maps against the annotations, by mmseg's IoUMetric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import TRANSFORMS

from pvt_mm.config.loading import walk
from pvt_mm.errors import UserError
from pvt_mm.reporting.confusion import Confusion
from pvt_mm.reporting.evaluation import (
    Evaluation,
    ImageScore,
    Table,
    build_test_set,
    check_same_images,
    display_size,
)
from pvt_mm.reporting.predictions import read_label_maps
from pvt_mm.training.evidence import doubts_of_pixels

__all__ = ["evaluate_label_maps"]

SHOWN_CLASSES = 6  # in the summary of an image
OPACITY = 0.6  # of the classes' colours on an image


def evaluate_label_maps(cfg: Config, path: Path) -> Evaluation:
    """Evaluate a folder of label maps on the config's test set.

    Args:
        cfg: The run's config.
        path: What ``tools/test.py --out`` wrote.

    Raises:
        UserError: If they don't fit each other.
    """
    maps = read_label_maps(path)
    dataset = build_test_set(cfg)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    check_same_images(path, maps, (Path(info["img_path"]).stem for info in infos))
    reader = _LabelReader(cfg, dataset, maps)
    classes = tuple(dataset.metainfo["classes"])
    areas = torch.zeros(4, len(classes), dtype=torch.float64)
    counts = np.zeros((len(classes), len(classes)), int)
    images = []
    for index, info in enumerate(infos):
        true, found = reader(index)
        of_image = torch.stack(
            IoUMetric.intersect_and_union(
                torch.from_numpy(found), torch.from_numpy(true), len(classes), dataset.ignore_index
            )
        )
        areas += of_image
        counts += _count(true, found, len(classes))
        iou = IoUMetric.total_area_to_metrics(*of_image)["IoU"]
        if not np.isnan(iou).all():
            seen = of_image[3].numpy() > 0
            name = Path(info["img_path"]).name
            score = 100 * float(np.nanmean(iou))
            images.append(ImageScore(index, name, score, seen.sum(), _summary(iou, seen, classes)))
    result = IoUMetric.total_area_to_metrics(*areas)
    return Evaluation(
        metrics={
            "mIoU": 100 * float(np.nanmean(result["IoU"])),
            "mAcc": 100 * float(np.nanmean(result["Acc"])),
            "aAcc": 100 * float(result["aAcc"]),
        },
        table=_table(classes, result["IoU"], result["Acc"], areas[3].numpy()),
        confusion=Confusion(classes, counts, "pixels"),
        images=images,
        score_name="mIoU in percent",
        doubts=list(doubts_of_pixels(classes, areas[2].numpy(), areas[3].numpy())),
        draw=_Pictures(dataset, reader),
        legend=[
            (name, f"rgb{tuple(map(int, colour))}")
            for name, colour in zip(classes, dataset.metainfo["palette"], strict=True)
        ],
    )


class _LabelReader:
    """Reads an image's annotated and predicted classes, uint8 ``(H, W)``, as evaluation does."""

    def __init__(self, cfg: Config, dataset: BaseDataset, maps: dict[str, Path]) -> None:
        self.dataset, self.maps = dataset, maps
        steps = [node for _, node in walk(cfg.test_dataloader.dataset.get("pipeline", []))]
        loads = [step for step in steps if str(step.get("type")).endswith("LoadAnnotations")]
        # Other libraries have a LoadAnnotations of their own.
        with TRANSFORMS.switch_scope_and_registry("mmseg") as registry:
            self.load = registry.build(loads[0] if loads else {"type": "LoadAnnotations"})

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        info = self.dataset.get_data_info(index)
        true = self.load(info)["gt_seg_map"]
        path = self.maps[Path(info["img_path"]).stem]
        found = mmcv.imread(str(path), flag="unchanged", backend="pillow")
        if found is None or found.shape != true.shape:
            raise UserError(
                f"--predictions: {path} is no label map of {true.shape[1]}x{true.shape[0]} pixels, "
                f"which {info['img_path']} has"
            )
        # As IoUMetric writes them, 0 stands for "unlabelled" in such data sets.
        return true, found - int(self.dataset.reduce_zero_label)


def _count(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    counted = (true < classes) & (found < classes)
    pairs = classes * true[counted].astype(int) + found[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _summary(iou: np.ndarray, seen: np.ndarray, classes: Sequence[str]) -> str:
    """Name the classes that are there, the worst first, and those that are not."""
    order = sorted(np.flatnonzero(seen), key=lambda label: iou[label])
    parts = [f"{classes[label]} {100 * iou[label]:.0f}%" for label in order[:SHOWN_CLASSES]]
    if len(order) > SHOWN_CLASSES:
        parts.append(f"{len(order) - SHOWN_CLASSES} better ones")
    text = f"IoU: {', '.join(parts)}"
    absent = [classes[label] for label in np.flatnonzero(~seen & ~np.isnan(iou))]
    return f"{text}; not there: {', '.join(absent[:SHOWN_CLASSES])}" if absent else text


def _table(classes: Sequence[str], iou: np.ndarray, acc: np.ndarray, pixels: np.ndarray) -> Table:
    rows = [
        (name, *(None if np.isnan(value) else 100 * float(value) for value in values))
        for name, *values in zip(classes, iou, acc, pixels / pixels.sum(), strict=True)
    ]
    note = "Accuracy: the share of the class's own pixels that are found."
    return Table(("class", "IoU %", "accuracy %", "% of pixels"), rows, note)


class _Pictures:
    """Draws an image of the test set twice, with its annotated and its predicted classes."""

    def __init__(self, dataset: BaseDataset, reader: _LabelReader) -> None:
        self.dataset, self.reader = dataset, reader
        self.colours = np.array(dataset.metainfo["palette"], np.uint8)

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return both pictures, ``(H, W, 3)``, RGB."""
        path = self.dataset.get_data_info(index)["img_path"]
        image = mmcv.imread(path, channel_order="rgb")
        height, width = display_size(*image.shape[:2])
        image = mmcv.imresize(image, (width, height))
        true, found = (
            self._tint(image, mmcv.imresize(labels, (width, height), interpolation="nearest"))
            for labels in self.reader(index)
        )
        return true, found

    def _tint(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        # mmseg's visualizer takes seconds for a picture, to find places for its labels.
        known = labels < len(self.colours)
        colours = np.where(known[..., None], self.colours[np.where(known, labels, 0)], image)
        return cv2.addWeighted(image, 1 - OPACITY, colours, OPACITY, 0)
