"""Writing an :class:`~pvt_mm.export.signature.Exportable` as ONNX, for OpenVINO or as ``pt2``."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from pvt_mm.errors import UserError
from pvt_mm.export.modules import (
    attend_in_one,
    convolve_maps,
    enlarge_by_integers,
    pool_by_products,
)
from pvt_mm.export.openvino import Calibration, check_openvino, save_openvino
from pvt_mm.export.signature import Exportable

__all__ = ["FORMATS", "OPSETS", "check_request", "export_model", "write_onnx"]

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}  # with their suffixes
OPSETS = range(18, 24)  # 20 is the first with a Gelu operator, 23 with Attention
MIN_SIDE = 32  # pixels
PACKAGES = ("onnx", "onnxscript")
METADATA_FILE = "metadata.json"


def export_model(
    exportable: Exportable,
    path: str | Path,
    format: str = "onnx",
    shape: tuple[int, int] = (224, 224),
    dynamic: bool = True,
    opset: int | None = None,
    standard: bool = False,
    dtype: str = "float32",
    calibration: Calibration | None = None,
) -> None:
    """Write a model to a file.

    Args:
        exportable: The model; it is not changed.
        path: The file.
        format: One of ``FORMATS``.
        shape: Height and width of the images, in pixels; an example only if ``dynamic``.
        dynamic: Whether the file serves images of any size, any number at a time; one image of
            ``shape`` otherwise.
        opset: Version of ONNX's operators; by default the newest that the model can have, which
            is the fastest.
        standard: Whether an ONNX file must do with standard operators; otherwise attention is ONNX
            Runtime's ``com.microsoft.MultiHeadAttention``, from torch 2.8 on.
        dtype: What OpenVINO computes the file in: ``'float32'``, ``'bfloat16'`` or ``'int8'``.
        calibration: What int8 is fitted to.

    Raises:
        UserError: If the format, the shape or the opset is not supported or a package is missing.
    """
    check_request(format, shape, opset, dtype)
    if opset and opset > exportable.newest_opset:
        raise UserError(
            f"opset {opset}: ONNX Runtime runs this model up to opset {exportable.newest_opset}"
        )
    module = copy.deepcopy(exportable.module).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    pool_by_products(module)
    enlarge_by_integers(module)
    if format != "pt2":
        convolve_maps(module)
    if format == "onnx" and not standard and hasattr(torch.onnx, "ops"):  # torch 2.8
        attend_in_one(module)
    with _quiet():
        program = _record(module, exportable, shape, dynamic)
        if format == "pt2":
            metadata = json.dumps(dict(exportable.metadata))
            torch.export.save(program, path, extra_files={METADATA_FILE: metadata})
            return
        opset = opset or exportable.newest_opset
        if format == "onnx":
            write_onnx(program, exportable, Path(path), opset, dynamic)
            return
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "graph.onnx"
            write_onnx(program, exportable, graph, opset, dynamic)
            save_openvino(graph, Path(path), exportable.metadata, dtype, calibration)


def check_request(
    format: str, shape: tuple[int, int], opset: int | None, dtype: str = "float32"
) -> None:
    """Check what :func:`export_model` is asked for, before a model is built for it.

    Raises:
        UserError: If the format, the shape or the opset is not supported or a package is missing.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; known are {', '.join(FORMATS)}")
    if min(shape) < MIN_SIDE:
        raise UserError(f"shape {shape[0]}x{shape[1]}: both sides must be at least {MIN_SIDE}")
    if format == "openvino":
        check_openvino(dtype)
    elif dtype != "float32":
        raise UserError(f"--dtype {dtype} is for --format openvino; {format} is float32")
    if format == "pt2":
        return
    if opset is not None and opset not in OPSETS:
        raise UserError(f"opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"missing for {format}: pip install {' '.join(missing)}")


def _record(
    module: nn.Module, exportable: Exportable, shape: tuple[int, int], dynamic: bool
) -> ExportedProgram:
    sides = _example(shape, _smallest_side(exportable)) if dynamic else shape
    images = torch.zeros(2 if dynamic else 1, _channels(module), *sides)
    return torch.export.export(
        module,
        exportable.arguments(images),
        dynamic_shapes=_dynamic_shapes(exportable) if dynamic else None,
        strict=False,
    )


def _smallest_side(exportable: Exportable) -> int:
    """Pixels; a map's side of 1, which smaller images have, would be recorded as always 1."""
    return max(2 * MIN_SIDE, exportable.stride + 1)


def _example(shape: tuple[int, int], smallest: int) -> tuple[int, int]:
    height, width = (max(side, smallest) for side in shape)
    # Sides of the same length would be recorded as always the same.
    return (height, width + MIN_SIDE) if height == width else (height, width)


def _dynamic_shapes(exportable: Exportable) -> tuple[dict[int, Dim], ...]:
    batch = Dim("batch", min=1)
    height, width = (Dim(name, min=_smallest_side(exportable)) for name in ("height", "width"))
    images = {0: batch, 2: height, 3: width}
    return (images, {0: batch}) if exportable.with_sizes else (images,)


def write_onnx(
    program: ExportedProgram, exportable: Exportable, path: Path, opset: int, dynamic: bool
) -> None:
    """Write an exported program as one ONNX file, with the exportable's names and metadata."""
    from pvt_mm.export.onnx_operators import TRANSLATIONS

    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=exportable.inputs,
        output_names=exportable.outputs,
        dynamic_shapes=_dynamic_shapes(exportable) if dynamic else None,  # for the names
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    onnx_program.model.metadata_props.update(exportable.metadata)
    onnx_program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own progress and its notes on packages that are not needed."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _channels(module: nn.Module) -> int:
    return next(one.in_channels for one in module.modules() if hasattr(one, "patch_embed1"))
