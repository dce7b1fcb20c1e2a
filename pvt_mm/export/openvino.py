"""Writing OpenVINO's files, in float32, for bfloat16 or quantised to int8."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pvt_mm.errors import UserError
from pvt_mm.runtimes.sessions import METADATA_KEY, compile_openvino, import_openvino

__all__ = ["DTYPES", "Calibration", "check_openvino", "save_openvino"]

DTYPES = ("float32", "bfloat16", "int8")

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """What int8 is fitted to.

    Args:
        inputs: What the graph is given, for each image.
        metric: From a compiled OpenVINO model to its figure on a labelled set, between 0 and 1;
            with it operations that cost too much stay in float32. None quantises all.
        max_drop: By how much the figure may fall.
    """

    inputs: Sequence[Inputs]
    metric: Callable[[Any], float] | None = None
    max_drop: float = 0.01


def check_openvino(dtype: str) -> None:
    """Check that what writes such a file is installed.

    Raises:
        UserError: If not, or if the number type is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be {', '.join(DTYPES)}, got {dtype!r}")
    import_openvino("--format openvino: ")
    if dtype == "int8" and find_spec("nncf") is None:
        raise UserError("--dtype int8: NNCF is missing: pip install nncf")


def save_openvino(
    onnx_file: Path,
    path: Path,
    metadata: Mapping[str, str],
    dtype: str = "float32",
    calibration: Calibration | None = None,
) -> None:
    """Write an ONNX file as OpenVINO's ``.xml`` and ``.bin``.

    Weights stay float32, or become int8; bfloat16 is what OpenVINO computes in when it reads the
    number type that the file names.

    Args:
        onnx_file: The graph.
        path: The ``.xml`` to write; the ``.bin`` goes beside it.
        metadata: JSON texts by name, which the file keeps.
        dtype: One of ``DTYPES``.
        calibration: For int8.

    Raises:
        UserError: If OpenVINO does not read the graph.
    """
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(onnx_file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"OpenVINO does not take this graph: {reason}") from error
    metadata = {**metadata, "dtype": json.dumps("bfloat16" if dtype == "bfloat16" else "float32")}
    if dtype == "int8":
        before, model = model, _quantised(model, calibration)
        if calibration.metric:
            figures = {
                name: float(calibration.metric(compile_openvino(one)))
                for name, one in (("float32", before), ("int8", model))
            }
            metadata["figures"] = json.dumps(figures)
            text = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            print(f"on the config's test set: {text}", flush=True)
    for name, value in metadata.items():
        model.set_rt_info(value, [METADATA_KEY, name])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _quantised(model: Any, calibration: Calibration) -> Any:
    import nncf

    dataset = nncf.Dataset(list(calibration.inputs))
    common = {
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": len(calibration.inputs),
    }
    model = model.clone()
    if calibration.metric is None:
        return nncf.quantize(model, dataset, **common)
    return nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=dataset,
        validation_dataset=nncf.Dataset([None]),
        validation_fn=lambda compiled, _: (calibration.metric(compiled), None),
        max_drop=calibration.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        **common,
    )
