"""Running what was written, beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from pvt_mm.data.demo.scenes import make_scene
from pvt_mm.errors import UserError
from pvt_mm.export.signature import Exportable
from pvt_mm.runtimes import open_session

__all__ = ["TOLERANCE", "can_check", "compare", "largest_difference", "load"]

TOLERANCE = 1e-3
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

Run = Callable[[Sequence[torch.Tensor]], list[np.ndarray]]


def can_check(format: str) -> bool:
    """Whether what runs a file of this format is installed."""
    runtime = {"onnx": "onnxruntime", "openvino": "openvino"}.get(format)
    return runtime is None or find_spec(runtime) is not None


def load(exportable: Exportable, path: str | Path, format: str) -> Run:
    """Load a file and return a function that runs it."""
    if format == "pt2":
        from pvt_mm.export import operators  # noqa: F401  which the file may name

        module = torch.export.load(path).module()

        def run_module(arguments: Sequence[torch.Tensor]) -> list[np.ndarray]:
            return _arrays(module(*arguments))

        return run_module
    session = open_session(path)

    def run_session(arguments: Sequence[torch.Tensor]) -> list[np.ndarray]:
        named = zip(exportable.inputs, arguments, strict=True)
        found = session.run({name: value.numpy() for name, value in named})
        return [found[name] for name in exportable.outputs]

    return run_session


@torch.inference_mode()
def compare(
    exportable: Exportable, path: str | Path, format: str, shapes: Sequence[tuple[int, int, int]]
) -> dict[tuple[int, int, int], float | None]:
    """Run a file and its model on the same images.

    Args:
        exportable: The model that was exported.
        path: The file.
        format: One of :data:`~pvt_mm.export.export.FORMATS`.
        shapes: Batch sizes, heights and widths to try.

    Returns:
        The largest difference at each shape: of boxes in pixels, else of the outputs; None where
        they agree that nothing is there, which shows nothing.

    Raises:
        UserError: If a difference is larger than ``TOLERANCE``.
    """
    run = load(exportable, path, format)
    found = {}
    for shape in shapes:
        arguments = exportable.arguments(_scenes(*shape))
        expected = _arrays(exportable.module(*arguments))
        difference = largest_difference(exportable.outputs, expected, run(arguments))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path} differs from PyTorch by {difference:.1e} at {'x'.join(map(str, shape))} "
                f"(batch, height, width); expected at most {TOLERANCE:.0e}"
            )
        found[shape] = difference if _shows_something(exportable.outputs, expected) else None
    return found


def _shows_something(names: Sequence[str], outputs: Sequence[np.ndarray]) -> bool:
    """Whether equal outputs mean that networks are equal: not so of no objects, or of one class."""
    named = dict(zip(names, outputs, strict=True))
    labels = named.get("labels")
    if labels is None:
        return True
    return bool(named["scores"].any() if "scores" in named else (labels != labels.flat[0]).any())


def largest_difference(
    names: Sequence[str], expected: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> float:
    """Compare outputs by name.

    Labels of a segmentation may differ where two classes are as likely: there the difference is
    the share of pixels that differ.
    """
    difference = 0.0
    for name, one, other in zip(names, expected, got, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if name == "labels" and one.ndim == 3:
            difference = max(difference, float((one != other).mean()))
        else:
            gap = np.abs(one.astype(np.float64) - other)
            difference = max(difference, float(gap.max(initial=0)))
    return difference


def _scenes(batch: int, height: int, width: int) -> torch.Tensor:
    """Normalised images of synthetic scenes, in which a trained detector may find something."""
    side = max(height, width)
    pixels = np.stack([make_scene((seed,), side).image[:height, :width] for seed in range(batch)])
    pixels = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def _arrays(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [output.numpy() for output in outputs]
