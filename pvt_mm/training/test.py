"""Testing, from the command line and from Python."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import is_classification, load_config
from pvt_mm.devices import DTYPES, choose_dtype
from pvt_mm.errors import UserError, run_tool
from pvt_mm.runtimes import is_exported, refuse_for_exported, use_exported
from pvt_mm.training.amp import compute_in_bfloat16
from pvt_mm.training.declared import declare
from pvt_mm.training.distributed import prepare_distributed, recorded, set_local_rank
from pvt_mm.training.models import innermost
from pvt_mm.training.outputs import PictureHook, check_display, prepare_folder, save_predictions
from pvt_mm.training.preflight import check_test, is_first_here
from pvt_mm.training.sharding import without_sharding
from pvt_mm.training.speed import prepare_speed
from pvt_mm.training.train import build_runner
from pvt_mm.training.tta import use_tta
from pvt_mm.training.validation import drop_incomplete

__all__ = ["main", "run_test"]


def run_test(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    show: bool = False,
    show_dir: str | os.PathLike | None = None,
    overwrite: bool = False,
    wait_time: float = 2.0,
    tta: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    dtype: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
) -> dict[str, float]:
    """Test a detector or a segmentor, after a check of what that needs.

    Args:
        config: The config file.
        checkpoint: A file, a URL or an alias that holds the whole model; or a file that
            ``tools/export.py`` wrote, which ONNX Runtime or OpenVINO runs on the CPU.
        work_dir: Folder of logs and metrics; ``work_dirs/NAME`` by default.
        out: Where predictions go: for detection a ``.pkl``, for segmentation a folder.
        show: Open every picture in a window.
        show_dir: Folder for pictures of all predictions.
        overwrite: Whether pictures of the same names there may be replaced.
        wait_time: How long a window stays open, in seconds.
        tta: Test-time augmentation.
        channels_last: Keep the maps of neck and heads channels-last in memory.
        compile: Compile the backbone.
        dtype: ``'float32'`` or ``'bfloat16'``; by default float32, of an exported file its own.
        cfg_options: Changes of the config, by dotted key.
        launcher: One of none, pytorch, slurm, mpi.

    Returns:
        The metrics by name, such as ``coco/bbox_mAP`` or ``mIoU``.

    Raises:
        UserError: If something that the user gave is missing or does not fit.
        CheckpointError: If the checkpoint cannot be fetched or loaded.
    """
    cfg = load_config(config, cfg_options, work_dir, launcher)
    exported = is_exported(checkpoint)
    if exported:
        refuse_for_exported(tta=tta, channels_last=channels_last, compile=compile)
    cfg.load_from, cfg.resume = None if exported else str(checkpoint), False
    drop_incomplete(cfg, "test")
    if is_classification(cfg) and (show or show_dir is not None or tta):
        raise UserError(
            "--show, --show-dir and --tta are not for classifiers; tools/classify.py prints what "
            "one makes of an image"
        )
    if show:
        check_display()
    if show_dir is not None and is_first_here():
        prepare_folder("--show-dir", Path(show_dir), overwrite)
    if out is not None:
        save_predictions(cfg, str(out))
    if tta and cfg.get("test_dataloader"):
        use_tta(cfg)
    check_test(cfg)
    if exported:
        use_exported(cfg, checkpoint, dtype)
    declare(cfg)
    prepare_distributed(cfg)
    without_sharding(cfg)
    runner = build_runner(cfg)
    prepare_speed(runner, channels_last, compile, inference=True)
    if not exported and dtype and choose_dtype(dtype, get_device()) == "bfloat16":
        compute_in_bfloat16(innermost(runner.model), get_device())
    if show or show_dir is not None:
        folder = None if show_dir is None else Path(show_dir).absolute()
        runner.register_hook(PictureHook(folder, show, wait_time, _score_threshold(cfg)))
    metrics = runner.test()
    if show_dir is not None:
        share = "" if runner.world_size == 1 else " (those of the first process's images)"
        runner.logger.info(f"pictures are in {folder}{share}")
    if out is not None:
        runner.logger.info(f"predictions are in {Path(out).absolute()}")
    return metrics


def _score_threshold(cfg: Config) -> float:
    """Take the threshold from the config's own visualization hook, where users set it."""
    return cfg.get("default_hooks", {}).get("visualization", {}).get("score_thr", 0.3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/test.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine("test.py", "Test a detector, a segmentor or a classifier.")
    parser.add_config()
    parser.add_argument(
        "checkpoint", help="checkpoint of the whole model, or a .onnx or .xml of tools/export.py"
    )
    parser.add_argument(
        "--out", help="write predictions: a .pkl file (detection) or a folder (segmentation)"
    )
    parser.add_flag("--show", "open every picture in a window")
    parser.add_argument("--show-dir", help="write pictures of all predictions to this folder")
    parser.add_flag(
        "--overwrite",
        "replace pictures of the same names in --show-dir; without it that has to be empty",
    )
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds that --show keeps a window open"
    )
    parser.add_flag("--tta", "test-time augmentation")
    parser.add_argument("--dtype", choices=DTYPES, help="what to compute in")
    parser.add_run_arguments()
    options = parser.options(argv)
    set_local_rank(options["launcher"], options.pop("local_rank"))
    return run_tool(recorded(lambda: run_test(**options)))
