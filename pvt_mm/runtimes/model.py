"""An exported file as one of mm's models, which Runner and Predictor take for the network."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from pvt_mm.errors import UserError
from pvt_mm.registry import MODELS
from pvt_mm.runtimes.results import classified, detected, segmented
from pvt_mm.runtimes.sessions import Session, open_session

__all__ = ["ExportedModel"]


@MODELS.register_module()
class ExportedModel(BaseModel):
    """A file of ``tools/export.py`` that predicts as the model does of which it was made.

    It has no parameters and runs on the CPU. Test loops, evaluators and visualizers do not notice:
    ``model=dict(type="pvt_mm.ExportedModel", file="model.onnx", data_preprocessor=...)``.

    Args:
        file: A ``.onnx`` file, or the ``.xml`` of OpenVINO; or a session that is open already.
        dtype: ``'float32'`` or ``'bfloat16'``; by default what the file was exported for.
        align_corners: Of a segmentor, how its head resizes logits.
        data_preprocessor: The model's own, which normalises and pads.

    Shape:
        inputs: ``(B, 3, h, w)``, normalised and padded.

    Raises:
        UserError: If the file cannot be opened, or does not take images of that size.
    """

    def __init__(
        self,
        file: str | os.PathLike | Session,
        dtype: str | None = None,
        align_corners: bool = False,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.session = file if isinstance(file, Session) else open_session(file, dtype)
        self.align_corners = align_corners
        self.task = self.session.task

    @torch.inference_mode()
    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = "predict",
        **other: Any,
    ) -> list[Any]:
        """Predict a batch.

        Args:
            inputs: ``(B, 3, h, w)``.
            data_samples: One for each image, with the sizes that the pipeline noted.
            mode: ``'predict'``; a file has neither losses nor raw outputs.
            other: What a classifier's batch has beside the images: ``labels``, ``img_path``.

        Returns:
            The data samples with what was found, or a dict for each image of a classifier.
        """
        if mode != "predict":
            raise UserError(f"{self.session.path} is an exported file: it predicts, nothing else")
        arrays = {"images": np.ascontiguousarray(inputs.float().cpu().numpy())}
        if self.task == "classification":
            outputs = self.session.run(arrays)
            return classified(outputs, other.get("labels"), other.get("img_path"))
        if self.task == "segmentation":
            segmented(data_samples, self.session.run(arrays), self.align_corners)
            return data_samples
        arrays["image_sizes"] = np.array(
            [sample.img_shape[:2] for sample in data_samples], dtype=np.int64
        )
        detected(data_samples, self.session.run(arrays), self.session.metadata)
        return data_samples
