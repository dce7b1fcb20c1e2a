"""Networks without learning that find coloured rectangles: what they must find is known exactly."""

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData

CLASSES = ("blue", "green", "red")  # BGR, as the arrays
# What an object of which the image's border may have cut off a part is certain of: more than a
# whole one, so that the wrong one would win.
WHOLE, AT_BORDER = 0.8, 0.9


class Blobs(BaseModel):
    """What both have: a parameter, so that there is something to load."""

    def __init__(self, num_classes, with_mask=True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.with_mask = with_mask

    def forward(self, inputs, data_samples, mode):
        assert mode == "predict"
        for image, sample in zip(inputs, data_samples, strict=True):
            self.predict(image.permute(1, 2, 0).numpy(), sample)
        return data_samples


@MODELS.register_module(force=True)
class BlobDetector(Blobs):
    """Each connected patch of a pure colour is an object."""

    def predict(self, image, sample):
        boxes, scores, labels, masks = [], [], [], []
        for label in range(3):
            pure = (image[..., label] > 200).astype(np.uint8)
            count, parts, stats, _ = cv2.connectedComponentsWithStats(pure)
            for part in range(1, count):
                x, y, w, h, _ = stats[part]
                inside = x > 0 and y > 0 and x + w < image.shape[1] and y + h < image.shape[0]
                boxes.append((x, y, x + w, y + h))
                scores.append(WHOLE if inside else AT_BORDER)
                labels.append(label)
                masks.append(parts == part)
        found = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.long),
        )
        if self.with_mask:
            masks = np.array(masks, bool).reshape(-1, *image.shape[:2])
            found.masks = torch.from_numpy(masks)
        sample.pred_instances = found


@MODELS.register_module(force=True)
class BlobSegmentor(Blobs):
    """A pixel is of the class of its strongest colour."""

    def predict(self, image, sample):
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(image.argmax(axis=2))[None])
        sample.seg_logits = PixelData(data=torch.from_numpy(image.transpose(2, 0, 1)).float())


def blob_config(folder, segmentor=False, **model):
    """Write a config and its checkpoint; returns both paths."""
    task, dataset = ("mmseg", "BaseSegDataset") if segmentor else ("mmdet", "CocoDataset")
    pack = "PackSegInputs" if segmentor else "PackDetInputs"
    steps = ("LoadImageFromFile", "LoadAnnotations", pack)
    kind = "BlobSegmentor" if segmentor else "BlobDetector"
    cfg = Config(
        {
            "custom_imports": {"imports": ["blobs"], "allow_failed_imports": False},
            "default_scope": task,
            "model": {"type": kind, "num_classes": 3, **model},
            "test_dataloader": {
                "dataset": {
                    "type": dataset,
                    "metainfo": {"classes": CLASSES},
                    "pipeline": [{"type": step} for step in steps],
                }
            },
        }
    )
    folder.mkdir(exist_ok=True)
    cfg.dump(folder / f"{task}.py")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, folder / f"{task}.pth")
    return folder / f"{task}.py", folder / f"{task}.pth"


def scene(boxes, height=300, width=400):
    """Paint ``(x1, y1, x2, y2, label)`` on black, ``(H, W, 3)`` uint8, BGR."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2, label in boxes:
        image[y1:y2, x1:x2, label] = 255
    return image
