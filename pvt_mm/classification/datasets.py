"""Images in one folder per class, as ImageNet comes, and the order in which they are trained on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from pvt_mm.backbones.arguments import check_int
from pvt_mm.registry import DATA_SAMPLERS, DATASETS

__all__ = ["ImageFolder", "RepeatedAugmentationSampler"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Images sorted into one folder per class, whose names, sorted, are the classes.

    ImageNet's folders are named by WordNet synset, and sorted they have the order of the released
    classifiers' outputs.

    Args:
        data_root: Folder of the data set.
        data_prefix: ``dict(img_path=...)``, the folder of the split in it, such as ``'train'``.
        kwargs: Arguments of mmengine's ``BaseDataset``: ``pipeline``, ``test_mode``, ``indices``...
    """

    def __init__(
        self, data_root: str = "", data_prefix: dict[str, str] | None = None, **kwargs: Any
    ) -> None:
        prefix = data_prefix or {"img_path": ""}
        super().__init__(data_root=data_root, data_prefix=dict(prefix), **kwargs)

    @property
    def folder(self) -> Path:
        """The folder that holds the classes' folders."""
        return Path(self.data_prefix["img_path"] or self.data_root)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images with their labels; sets the classes in ``metainfo``."""
        classes = _class_folders(self.folder)
        self._metainfo["classes"] = tuple(path.name for path in classes)
        return [
            {"img_path": path, "gt_label": label}
            for label, folder in enumerate(classes)
            for path in sorted(_images(folder))
        ]

    def find_problem(self, model: dict[str, Any]) -> str | None:
        """Say what is wrong with the folder for this model, before a run; None if nothing is.

        Args:
            model: Config of the classifier.
        """
        classes = _class_folders(self.folder)
        if not classes:
            return f"{self.folder} has no folders: the images must be in one folder per class"
        if empty := [path.name for path in classes if next(_images(path), None) is None]:
            return f"class folder {self.folder / empty[0]} ({len(empty)} in all) holds no image"
        wanted = model.get("num_classes", len(classes))
        if len(classes) != wanted:
            return (
                f"{self.folder} has {len(classes)} class folders, but model.num_classes is "
                f"{wanted}; make them agree (--cfg-options model.num_classes={len(classes)})"
            )
        return None


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _images(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES):
                yield entry.path


@DATA_SAMPLERS.register_module()
class RepeatedAugmentationSampler(Sampler[int]):
    """Draw each image several times in a row, for differently augmented copies of it.

    The processes of a distributed run take turns, so that the copies go to different ones. An
    epoch is as long as without repetition: it sees only a part of the images.

    Args:
        dataset: What is sampled.
        num_repeats: Draws of an image; 1 is plain random sampling.
        shuffle: Whether to draw in random order.
        seed: Seed of the order, the same in all processes; drawn if None.
        round_to: The epoch's draws, over all processes, are a multiple of this, if there are that
            many images.

    Reference: arXiv:1902.05509; DeiT, arXiv:2012.12877, section 6.
    """

    def __init__(
        self,
        dataset: Sized,
        num_repeats: int = 3,
        shuffle: bool = True,
        seed: int | None = None,
        round_to: int = 256,
    ) -> None:
        self.num_repeats = check_int("num_repeats", num_repeats, 1)
        self.total = len(dataset)
        self.shuffle, self.epoch = shuffle, 0
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        rounded = self.total // check_int("round_to", round_to, 1) * round_to or self.total
        self.num_samples = math.ceil(rounded / self.world_size)

    def __iter__(self) -> Iterator[int]:
        order = torch.arange(self.total)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.total, generator=generator)
        needed = self.num_samples * self.world_size
        # With few images the repeated order may still be too short: it starts again.
        draws = order.repeat_interleave(self.num_repeats)
        draws = draws.repeat(math.ceil(needed / len(draws)))[:needed] if self.total else draws
        return iter(draws[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Change the order; mmengine calls this before each epoch."""
        self.epoch = epoch
