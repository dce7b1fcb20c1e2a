"""What a test run writes besides its metrics: predictions and pictures."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from pvt_mm.config.loading import is_classification, is_segmentation
from pvt_mm.config.models import task_of
from pvt_mm.errors import UserError
from pvt_mm.files import unique_stem
from pvt_mm.results import draw_sample
from pvt_mm.training.validation import check_evaluator

__all__ = ["PictureHook", "check_display", "prepare_folder", "save_predictions"]

PICKLES = (".pkl", ".pickle")


class PictureHook(Hook):
    """Draw each tested image, its annotations on the left if there are any.

    Small images are enlarged, so that names can be read, and no name is cut at the border; mm's
    visualizers do neither. Of a distributed run the first process's share of the images is drawn.

    Args:
        folder: Where the pictures go, named like their images, of two that are called the same
            one with its folder's name before; ``None`` writes none.
        show: Whether to open each in a window.
        wait_time: How long a window stays open, in seconds; 0 waits for a key.
        score_thr: Boxes and masks of a lower score are not drawn.
    """

    def __init__(
        self,
        folder: Path | None,
        show: bool = False,
        wait_time: float = 2.0,
        score_thr: float = 0.3,
    ) -> None:
        self.folder = folder
        self.show = show
        self.wait_time = wait_time
        self.score_thr = score_thr
        self._taken: set[str] = set()

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Draw one batch of predictions."""
        if not is_main_process():
            return
        for sample in outputs:
            path = PurePosixPath(sample.img_path)
            picture = self._draw(sample, dict(runner.visualizer.dataset_meta))
            if self.folder is not None:
                file = self.folder / f"{unique_stem(path, self._taken)}{path.suffix}"
                mmcv.imwrite(picture, str(file))
            if self.show:
                runner.visualizer.show(picture[..., ::-1], path.name, self.wait_time)

    def _draw(self, sample: BaseDataElement, meta: Mapping[str, Any]) -> np.ndarray:
        """Return the picture, BGR: what is annotated, if anything is, beside what is predicted."""
        image = mmcv.imread(sample.img_path)
        pictures = (
            draw_sample(image, sample, meta, kind, self.score_thr) for kind in ("gt", "pred")
        )
        drawn = [picture for picture in pictures if picture is not None]
        return np.hstack(drawn) if drawn else image


def prepare_folder(option: str, folder: Path, overwrite: bool) -> None:
    """Make a folder for results.

    Args:
        option: The command line's name of it, for messages.
        folder: Where they go.
        overwrite: Whether files of the same names may be replaced.

    Raises:
        UserError: If it is not empty and nothing may be replaced, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        filled = next(folder.iterdir(), None)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror}") from error
    if filled and not overwrite:
        raise UserError(
            f"{option} {folder} is not empty; --overwrite replaces results of the same names "
            "there, or name another folder"
        )


def check_display() -> None:
    """Check that windows can be opened.

    Raises:
        UserError: If this is a machine without a screen.
    """
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise UserError("--show needs a screen, and none is found; use --show-dir FOLDER")


def save_predictions(cfg: Config, out: str) -> None:
    """Make a test run write its predictions.

    Args:
        cfg: The config, changed in place.
        out: For detection and classification a pickle file, for segmentation a folder of PNG
            label maps.

    Raises:
        UserError: If ``out`` is neither, or not what the config's task writes, or the test's
            evaluator is none.
    """
    path = Path(out)
    is_pickle = path.suffix in PICKLES
    check_evaluator(cfg, "test")
    evaluator = cfg.test_evaluator
    evaluators = list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]
    if is_segmentation(cfg):
        if is_pickle or path.is_file():
            raise UserError(f"--out {out}: segmentation writes PNG label maps; name a folder")
        for metric in evaluators:
            if str(metric.get("type")).endswith("IoUMetric"):
                metric["output_dir"] = str(path)
    elif not is_pickle:
        raise UserError(f"--out {out}: {task_of(cfg)} writes one pickle file; name it *.pkl")
    elif is_classification(cfg):
        evaluators.append({"type": "mmengine.DumpResults", "out_file_path": str(path)})
    else:
        evaluators.append({"type": "mmdet.DumpDetResults", "out_file_path": str(path)})
    cfg.test_evaluator = evaluators
