"""Files that tools/export.py wrote, run by the library that is made for them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pvt_mm.devices import choose_dtype
from pvt_mm.errors import UserError

__all__ = [
    "METADATA_KEY",
    "Session",
    "compile_openvino",
    "import_openvino",
    "is_exported",
    "open_session",
]

METADATA_KEY = "pvt_mm"  # in an OpenVINO file's rt_info
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
# What an export writes of itself, each a JSON text.
KEYS = (
    *("task", "classes", "palette", "mean", "std", "size_divisor", "resize", "mask_threshold"),
    *("config", "pvt_mm", "channel_order", "dtype", "figures"),
)

# Shape legend: a name's array has the shape that docs/export.md gives.
Arrays = dict[str, np.ndarray]


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a name is that of an exported file, not of a checkpoint."""
    return Path(str(path)).suffix in _SESSIONS


class Session:
    """A file that is ready to run.

    Args:
        path: The file.
        metadata: What the file says of itself, by name; see docs/export.md.
        dtype: What it computes in.
        names: Its outputs.
        batch: How many images it takes at a time; None for any number.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        dtype: str,
        names: tuple[str, ...],
        batch: int | None,
    ) -> None:
        self.path, self.metadata, self.dtype = path, metadata, dtype
        self.names, self.batch = names, batch

    @property
    def task(self) -> str:
        """``detection``, ``instances``, ``segmentation`` or ``classification``.

        Raises:
            UserError: If the file is of another origin, or a backbone alone.
        """
        task = self.metadata.get("task")
        if task is None:
            raise UserError(
                f"{self.path} does not say what it is; expected a file that tools/export.py wrote"
            )
        if task == "features":
            raise UserError(
                f"{self.path} is a backbone alone, which finds nothing; export the whole model "
                "(without --part backbone)"
            )
        return task

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the graph.

        Args:
            inputs: Arrays by name: ``images``, and of a detector ``image_sizes``.

        Returns:
            The outputs by name.

        Raises:
            UserError: If the file does not take images of that size.
        """
        raise NotImplementedError

    def _refuse(self, images: np.ndarray, error: Exception) -> UserError:
        batch, _, height, width = images.shape
        reason = str(error).strip().splitlines()[-1]
        return UserError(
            f"{self.path} does not run on {batch} image(s) of {height}x{width} pixels; export it "
            f"for any size (without --static), or change the config's pipeline: {reason}"
        )


class OnnxSession(Session):
    """ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, dtype: str | None) -> None:
        if find_spec("onnxruntime") is None:
            raise UserError(f"{path}: ONNX Runtime is missing: pip install onnxruntime")
        if dtype == "bfloat16":
            raise UserError(
                f"{path}: ONNX Runtime computes it in float32 on CPUs; for bfloat16 export it by "
                "--format openvino"
            )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _unreadable(path, "ONNX file", error) from error
        entries = self._session.get_modelmeta().custom_metadata_map
        names = tuple(one.name for one in self._session.get_outputs())
        batch = self._session.get_inputs()[0].shape[0]  # a name, where any number does
        fixed = batch if isinstance(batch, int) else None
        # Without our version it is of another origin, whatever its keys are.
        metadata = _parsed(entries) if "pvt_mm" in entries else {}
        super().__init__(path, metadata, "float32", names, fixed)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the graph; see :meth:`Session.run`."""
        try:
            found = self._session.run(list(self.names), dict(inputs))
        except Exception as error:  # its exceptions have no class of their own
            raise self._refuse(inputs["images"], error) from error
        return dict(zip(self.names, found, strict=True))


class OpenVinoSession(Session):
    """OpenVINO, on the CPU."""

    def __init__(self, path: Path, dtype: str | None) -> None:
        openvino = import_openvino(f"{path}: ")
        try:
            model = openvino.Core().read_model(path)
        except Exception as error:
            raise _unreadable(path, "OpenVINO file", error) from error
        metadata = _rt_info(model)
        dtype = choose_dtype(dtype or metadata.get("dtype", "float32"), "cpu")
        self._hold(compile_openvino(model, dtype), path, metadata, dtype)

    @classmethod
    def of(cls, compiled: Any, path: Path, metadata: Mapping[str, Any]) -> OpenVinoSession:
        """Take a model that OpenVINO has compiled already.

        Args:
            compiled: The model.
            path: What messages call it.
            metadata: As a file's.
        """
        session = cls.__new__(cls)
        session._hold(compiled, path, metadata, "float32")
        return session

    def _hold(self, compiled: Any, path: Path, metadata: Mapping[str, Any], dtype: str) -> None:
        self._request = compiled.create_infer_request()
        names = tuple(one.any_name for one in compiled.outputs)
        batch = compiled.inputs[0].partial_shape[0]
        fixed = batch.get_length() if batch.is_static else None
        super().__init__(path, metadata, dtype, names, fixed)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the graph; see :meth:`Session.run`."""
        try:
            found = self._request.infer(dict(inputs))
        except RuntimeError as error:
            raise self._refuse(inputs["images"], error) from error
        # Copies: the request writes its next results into the same memory.
        return {name: np.array(found[name]) for name in self.names}


_SESSIONS = {".onnx": OnnxSession, ".xml": OpenVinoSession}


def open_session(path: str | os.PathLike, dtype: str | None = None) -> Session:
    """Open an exported file with as many threads as torch has.

    Args:
        path: A ``.onnx`` file, or the ``.xml`` of OpenVINO with its ``.bin`` beside it.
        dtype: ``'float32'`` or ``'bfloat16'``; by default what the file was exported for.

    Raises:
        UserError: If it cannot be opened, or what runs it is not installed.
    """
    path = Path(path).expanduser()
    if not is_exported(path):
        raise UserError(f"{path}: an exported file ends in {' or '.join(_SESSIONS)}")
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found")
    return _SESSIONS[path.suffix](path, dtype)


def compile_openvino(model: Any, dtype: str = "float32") -> Any:
    """Compile an OpenVINO model for this CPU and as many threads as torch has."""
    # The number type is said in any case: on some processors OpenVINO takes bfloat16 by itself.
    hints = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return import_openvino().Core().compile_model(model, "CPU", hints)


def import_openvino(who: str = "") -> ModuleType:
    """Import OpenVINO without the package that reports its use.

    Args:
        who: What needs it, for the message.

    Raises:
        UserError: If it is not installed.
    """
    if find_spec("openvino") is None:
        raise UserError(f"{who}OpenVINO is missing: pip install openvino")
    # Both OpenVINO and NNCF go without it where it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def _rt_info(model: Any) -> dict[str, Any]:
    """Read what an OpenVINO file keeps under a name of ours; nothing in one of another origin."""
    if not model.has_rt_info([METADATA_KEY]):
        return {}
    entries = model.rt_info[METADATA_KEY].items()
    return _parsed({name: value.astype(str) for name, value in entries})


def _parsed(entries: Mapping[str, str]) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in entries.items() if name in KEYS}


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    return UserError(f"{path} is no readable {kind}: {str(error).strip().splitlines()[-1]}")
