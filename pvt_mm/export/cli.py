"""Exporting, from the command line and from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from torch import nn

from pvt_mm.cli import BooleanOptionalAction, CommandLine
from pvt_mm.config.loading import drop_pretrained, load_config
from pvt_mm.config.models import build_model, usual_shape
from pvt_mm.errors import UserError, run_tool
from pvt_mm.export.calibration import calibration_of
from pvt_mm.export.check import can_check, compare
from pvt_mm.export.export import FORMATS, OPSETS, check_request, export_model
from pvt_mm.export.metadata import describe
from pvt_mm.export.openvino import DTYPES
from pvt_mm.export.signature import Exportable, backbone_exportable, model_exportable
from pvt_mm.training.matching import load_matching
from pvt_mm.training.preflight import check_checkpoint

__all__ = ["main", "run_export"]

PARTS = ("model", "backbone")
DETECTION_SHAPE = (800, 1344)
# Batch, height and width at which a file of any size is checked.
CHECKED = ((1, 224, 224), (2, 192, 256), (1, 256, 160))
# Where equal outputs show nothing.
NO_OBJECTS = (
    "the model finds no object in the scenes for it; with a lower score_thr in model.test_cfg, and "
    "another --out, the same network can be compared"
)
ONE_CLASS = (
    "the model sees one class everywhere; with --logits, and another --out, the same network can "
    "be compared"
)


def run_export(
    config: str | os.PathLike,
    checkpoint: str,
    *,
    format: str = "onnx",
    out: str | os.PathLike | None = None,
    part: str = "model",
    shape: Sequence[int] | None = None,
    dynamic: bool = True,
    opset: int | None = None,
    standard: bool = False,
    logits: bool = False,
    dtype: str = "float32",
    calibrate: Sequence[str] = (),
    max_drop: float | None = None,
    check: bool | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model of a config with a checkpoint's weights, and compare it with PyTorch.

    Args:
        config: The config file.
        checkpoint: A file, a URL or an alias that holds the whole model.
        format: ``'onnx'``, ``'openvino'`` or ``'pt2'``.
        out: The file to write; the config's name in the current folder by default.
        part: ``'model'``, or ``'backbone'`` for the PVT alone.
        shape: Height and width in pixels, for a file of one size.
        dynamic: Whether the file serves images of any size, any number at a time.
        opset: Version of ONNX's operators; by default the newest that the model can have.
        standard: Whether an ONNX file is for other runtimes than ONNX Runtime, too.
        logits: Whether a segmentor returns logits in place of labels.
        dtype: What OpenVINO computes the file in: ``'float32'``, ``'bfloat16'`` or ``'int8'``.
        calibrate: Images, folders or patterns that int8 is fitted to; a few dozen are enough.
        max_drop: By how much AP or mIoU, from 0 to 1, may fall on the config's test set by int8;
            None does not measure it.
        check: Whether to run the file beside PyTorch; None if what runs it is installed.
        cfg_options: Changes of the config, by dotted key.

    Returns:
        The file.

    Raises:
        UserError: If something cannot be exported, a package is missing, or the file's numbers
            are not PyTorch's.
        CheckpointError: If the checkpoint cannot be fetched or loaded.
    """
    cfg = load_config(config, cfg_options)
    size = tuple(shape) if shape else usual_shape(cfg, DETECTION_SHAPE)
    check_request(format, size, opset, dtype)
    if check and not can_check(format):
        raise UserError("--check needs onnxruntime: pip install onnxruntime")
    _check_int8(dtype, calibrate, max_drop, part)
    path = Path(out) if out else Path(f"{Path(config).stem}{_suffix(part)}{FORMATS[format]}")
    if path.suffix != FORMATS[format]:
        raise UserError(f"--out {path}: a file of format {format} ends in {FORMATS[format]}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    exportable = load_exportable(cfg, str(checkpoint), part, logits)
    print(f"exporting {exportable.task}: this takes a minute or more", flush=True)
    calibration = calibration_of(cfg, exportable, calibrate, max_drop) if calibrate else None
    export_model(exportable, path, format, size, dynamic, opset, standard, dtype, calibration)
    names = ", ".join(exportable.outputs)
    files = (path, path.with_suffix(".bin")) if format == "openvino" else (path,)
    size_mib = sum(file.stat().st_size for file in files) / 2**20
    print(f"{' and '.join(map(str, files))}: {size_mib:.1f} MiB, outputs {names}", flush=True)
    if dtype != "float32":
        print(f"it computes in {dtype}: tools/test.py {config} {path} measures what that changes")
        return path
    if check is False or not can_check(format):
        print("not compared with PyTorch" + ("" if check is False else ": no onnxruntime here"))
        return path
    shapes = CHECKED if dynamic else ((1, *size),)
    for tried, difference in compare(exportable, path, format, shapes).items():
        size = "x".join(map(str, tried))
        if difference is None:
            reason = ONE_CLASS if exportable.task == "segmentation" else NO_OBJECTS
            print(f"not compared with PyTorch at {size}: {reason}")
        else:
            print(f"largest difference to PyTorch at {size}: {difference:.1e}")
    return path


def load_exportable(cfg: Config, checkpoint: str, part: str, logits: bool) -> Exportable:
    """Build a config's model with a checkpoint's weights and describe what is exported of it."""
    check_checkpoint(checkpoint, "checkpoint")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    drop_pretrained(cfg.model, f"{checkpoint} holds the whole model")
    model = build_model(cfg).eval()
    if part == "backbone":
        exportable = backbone_exportable(model.backbone)
    else:
        exportable = model_exportable(model, logits)
    metadata = describe(cfg, model, _load(model, checkpoint))
    metadata["task"] = f'"{exportable.task}"'
    return replace(exportable, metadata=metadata)


def _load(model: nn.Module, path: str) -> Mapping[str, Any]:
    """Load a checkpoint strictly and return its ``meta``."""
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu", logger="silent")
    load_matching(model, checkpoint, path)
    return checkpoint.get("meta") or {}


def _check_int8(dtype: str, calibrate: Sequence[str], max_drop: float | None, part: str) -> None:
    if dtype == "int8" and not calibrate:
        raise UserError(
            "--dtype int8 needs --calibrate IMAGES: some dozens of the kind it will see"
        )
    if dtype != "int8" and (calibrate or max_drop is not None):
        raise UserError("--calibrate and --max-drop are for --dtype int8")
    if calibrate and part == "backbone":
        raise UserError("--dtype int8 is for whole models, whose test pipeline reads the images")
    if max_drop is not None and not 0 < max_drop < 1:
        raise UserError(f"--max-drop must be between 0 and 1, got {max_drop}")


def _suffix(part: str) -> str:
    return "_backbone" if part == "backbone" else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/export.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine("export.py", "Write a model as ONNX, OpenVINO or pt2.")
    parser.add_config()
    parser.add_argument("checkpoint", help="checkpoint of the whole model")
    parser.add_argument("--format", default="onnx", help=f"{' or '.join(FORMATS)} (onnx)")
    parser.add_argument("--out", help="file to write; CONFIG.FORMAT in this folder by default")
    parser.add_argument("--part", choices=PARTS, default="model", help="what to export (model)")
    parser.add_shape("size of the images, in pixels")
    parser.add_argument(
        "--dynamic",
        action="store_true",
        default=True,
        help="images of any size, any number at a time; --static: one of --shape",
    )
    parser.add_argument("--static", dest="dynamic", action="store_false", help="see --dynamic")
    parser.add_argument(
        "--opset",
        type=int,
        help=f"ONNX's operators, {OPSETS[0]} to {OPSETS[-1]}; the newest that runs by default",
    )
    parser.add_flag(
        "--standard", "standard ONNX operators only, for other runtimes than ONNX Runtime"
    )
    parser.add_flag("--logits", "of a segmentor: logits, not labels")
    parser.add_argument(
        "--dtype",
        default="float32",
        help=f"what OpenVINO computes in: {', '.join(DTYPES)} (float32)",
    )
    parser.add_argument(
        "--calibrate", nargs="+", default=(), metavar="IMAGES", help="what int8 is fitted to"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="DROP",
        help="keep what costs int8 more than this of AP or mIoU (0 to 1) on the config's test set "
        "in float32; takes many tests of that set",
    )
    parser.add_argument(
        "--check",
        action=BooleanOptionalAction,
        help="compare with PyTorch; by default if onnxruntime is installed",
    )
    parser.add_cfg_options()
    options = parser.options(argv)
    return run_tool(lambda: run_export(**options))
