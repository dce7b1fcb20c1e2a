"""Finding and reading what ``tools/test.py --out`` wrote."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

from pvt_mm.checkpoints import RefusedCheckpointError
from pvt_mm.checkpoints.restricted_pickle import Unpickler
from pvt_mm.checkpoints.stand_ins import resolve
from pvt_mm.errors import UserError

__all__ = ["find_predictions", "read_detections", "read_label_maps"]

DETECTIONS, LABEL_MAPS = "predictions.pkl", "labels"
_NEEDED = ("bboxes", "scores", "labels")


def find_predictions(work_dir: Path, segmentation: bool) -> Path | None:
    """Look for predictions under their usual name in a work directory."""
    path = work_dir / (LABEL_MAPS if segmentation else DETECTIONS)
    return path if path.exists() else None


def read_detections(path: Path) -> list[dict[str, Any]]:
    """Read a detector's predictions; nothing that the file asks for is executed.

    Args:
        path: The pickle file, one dict for each image.

    Raises:
        UserError: If it is missing or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"--predictions {path}: no such file; a detector's are one pickle file")
    try:
        with path.open("rb") as file:
            samples = resolve(_Reader(file).load())
    except RefusedCheckpointError as error:
        raise UserError(
            f"--predictions {path}: it asks for {error}, which predictions never do; nothing of "
            "it was executed"
        ) from None
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UserError(f"--predictions {path}: no pickle of predictions ({error})") from error
    if not isinstance(samples, list) or not samples or not all(map(_is_sample, samples)):
        raise UserError(
            f"--predictions {path}: expected a list with the boxes, scores and labels of each "
            "image, as tools/test.py --out writes it"
        )
    return samples


def _is_sample(sample: Any) -> bool:
    if not isinstance(sample, dict) or not {"img_id", "img_path", "pred_instances"} <= set(sample):
        return False
    instances = sample["pred_instances"]
    return isinstance(instances, dict) and all(
        isinstance(instances.get(key), torch.Tensor) for key in _NEEDED
    )


class _Reader(Unpickler):
    """Reads tensors, which plain pickles hold as small files of their own, and plain data."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.known = {**self.known, "torch.storage._load_from_bytes": _load_storage}


def _load_storage(content: bytes) -> Any:
    return torch.load(BytesIO(content), weights_only=True)


def read_label_maps(folder: Path) -> dict[str, Path]:
    """List a segmentor's label maps by the names of their images, without suffix.

    Raises:
        UserError: If there are none.
    """
    maps = {path.stem: path for path in sorted(folder.glob("*.png"))}
    if not maps:
        raise UserError(f"--predictions {folder}: no PNG label maps; a segmentor's are a folder")
    return maps
