"""Trained detectors and segmentors on images and videos of the user's own."""

from .predictor import Predictor
from .results import Detection, Segmentation

__all__ = ["Detection", "Predictor", "Segmentation"]
