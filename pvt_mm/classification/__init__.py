"""Image classification, the task that the released weights come from: network, data, metric."""

from pvt_mm.classification.classifier import PVTClassifier
from pvt_mm.classification.datasets import ImageFolder, RepeatedAugmentationSampler
from pvt_mm.classification.labels import imagenet_classes
from pvt_mm.classification.metric import TopKAccuracy
from pvt_mm.classification.preprocessor import ClsDataPreprocessor
from pvt_mm.classification.transforms import CenterCrop, DeiTAugment

__all__ = [
    "CenterCrop",
    "ClsDataPreprocessor",
    "DeiTAugment",
    "ImageFolder",
    "PVTClassifier",
    "RepeatedAugmentationSampler",
    "TopKAccuracy",
    "imagenet_classes",
]
