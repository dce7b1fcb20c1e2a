"""Models that predict what they are told, for tests of what is made of predictions."""

import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import nn


@MODELS.register_module(force=True)
class GivenBoxes(BaseModel):
    """Finds the same objects in every image: ``[(label, x1, y1, x2, y2), ...]``."""

    def __init__(self, found, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.found = torch.tensor(found, dtype=torch.float32).reshape(-1, 5)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples, mode="tensor"):
        if mode == "loss":
            return {"loss": self.weight.square().sum()}
        for sample in data_samples:
            sample.pred_instances = InstanceData(
                bboxes=self.found[:, 1:].clone(),
                labels=self.found[:, 0].long(),
                scores=torch.full((len(self.found),), 0.9),
            )
            assert isinstance(sample, DetDataSample)
        return data_samples


@MODELS.register_module(force=True)
class GivenLabels(BaseModel):
    """Gives all pixels of each row the same class: the row's number modulo ``classes``."""

    def __init__(self, classes, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.classes = classes
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples, mode="tensor"):
        if mode == "loss":
            return {"loss": self.weight.square().sum()}
        for sample in data_samples:
            height, width = sample.ori_shape
            rows = torch.arange(height)[:, None].expand(height, width) % self.classes
            sample.pred_sem_seg = PixelData(data=rows[None].clone())
        return data_samples
