"""The project's data: pictures of cells in grey, drawn as they are asked for."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from .registry import DATASETS

__all__ = ["CellBoxes", "CellMasks"]


class _Cells(BaseDataset):
    """Images of ``size`` pixels a side, ``count`` of them."""

    METAINFO = {"classes": ("background", "cell"), "palette": [(0, 0, 0), (220, 60, 60)]}

    def __init__(self, count: int = 16, size: int = 64, **kwargs) -> None:
        self.count, self.size = count, size
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """List the seeds that the images are drawn from."""
        return [{"seed": seed} for seed in range(self.count)]

    def draw(self, seed: int):
        """Draw three cells; returns the image, their boxes and their mask as tensors."""
        random = np.random.default_rng(seed)
        ys, xs = np.mgrid[: self.size, : self.size]
        mask = np.zeros((self.size, self.size), bool)
        boxes = []
        for _ in range(3):
            radius = random.uniform(6, 12)
            x, y = random.uniform(radius, self.size - radius, 2)
            mask |= (xs - x) ** 2 + (ys - y) ** 2 < radius**2
            boxes.append((x - radius, y - radius, x + radius, y + radius))
        grey = 60.0 + 120.0 * mask + random.normal(0, 20, mask.shape)
        image = torch.from_numpy(grey.clip(0, 255).astype(np.uint8))
        return image.expand(3, -1, -1), torch.tensor(boxes), torch.from_numpy(mask)

    def meta(self, seed: int) -> dict:
        """Tell what mmdet and mmseg want to know about an image."""
        shapes = dict.fromkeys(("img_shape", "ori_shape"), (self.size, self.size))
        return {"img_id": seed, "scale_factor": (1.0, 1.0), **shapes}


@DATASETS.register_module()
class CellBoxes(_Cells):
    """Cells to detect."""

    METAINFO = {"classes": ("cell",), "palette": [(220, 60, 60)]}

    def prepare_data(self, idx: int) -> dict:
        """Return the image and its boxes."""
        seed = self.get_data_info(idx)["seed"]
        image, boxes, _ = self.draw(seed)
        labels = torch.zeros(len(boxes), dtype=torch.long)
        sample = DetDataSample(metainfo=self.meta(seed))
        sample.gt_instances = InstanceData(bboxes=boxes.float(), labels=labels)
        return {"inputs": image, "data_samples": sample}


@DATASETS.register_module()
class CellMasks(_Cells):
    """Cells to segment."""

    def prepare_data(self, idx: int) -> dict:
        """Return the image and its label map."""
        seed = self.get_data_info(idx)["seed"]
        image, _, mask = self.draw(seed)
        sample = SegDataSample(metainfo=self.meta(seed))
        sample.gt_sem_seg = PixelData(data=mask.long()[None])
        return {"inputs": image, "data_samples": sample}
