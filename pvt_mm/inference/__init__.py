"""Trained detectors and segmentors on images and videos of the user's own."""

from pvt_mm.inference.predictor import Predictor
from pvt_mm.results import Detection, Segmentation

__all__ = ["Detection", "Predictor", "Segmentation"]
