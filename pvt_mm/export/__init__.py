"""Networks as files that run without this package: ONNX, and PyTorch's own ``pt2``."""

from pvt_mm.export.export import export_model
from pvt_mm.export.signature import Exportable, backbone_exportable, model_exportable

__all__ = ["Exportable", "backbone_exportable", "export_model", "model_exportable"]
