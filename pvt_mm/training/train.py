"""Training, from the command line and from Python."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import drop_pretrained, load_config, log
from pvt_mm.data.bad_samples import allow_bad_images
from pvt_mm.errors import UserError, run_tool
from pvt_mm.training.amp import is_amp
from pvt_mm.training.declared import declare, declared_hook
from pvt_mm.training.distributed import prepare_distributed, recorded, set_local_rank
from pvt_mm.training.divergence import MAX_SKIPS
from pvt_mm.training.preflight import check_train
from pvt_mm.training.resuming.atomic import disk_faults
from pvt_mm.training.resuming.interruption import interruptible
from pvt_mm.training.resuming.latest import latest_checkpoint
from pvt_mm.training.resuming.randomness import make_deterministic
from pvt_mm.training.sharding import check_sharding, prepare_sharding
from pvt_mm.training.speed import prepare_speed
from pvt_mm.training.terminal import ToolRunner
from pvt_mm.training.trackers import TRACKERS, use_trackers
from pvt_mm.training.validation import drop_incomplete

__all__ = ["build_runner", "main", "run_train"]


def run_train(
    config: str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: str | None = None,
    deterministic: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    skip_bad_images: int | None = None,
    log_to: str | None = None,
    on_divergence: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
) -> Runner:
    """Train a detector, a segmentor or a classifier, after a check of what that needs.

    Args:
        config: The config file.
        work_dir: Folder of logs and checkpoints; ``work_dirs/NAME`` by default.
        amp: Train in mixed precision.
        auto_scale_lr: Scale the learning rate to the actual batch size.
        resume: A checkpoint to continue from, or 'auto' for the work directory's latest.
        deterministic: Compute the same every time, bit by bit; see docs/interruptions.md.
        channels_last: Keep the maps of neck and heads channels-last in memory.
        compile: Compile the backbone.
        skip_bad_images: How many bad samples to leave out before the run stops; what the config
            says, or none, by default.
        log_to: One of tensorboard, wandb, mlflow; TensorBoard is used wherever it is installed.
        on_divergence: 'stop' or 'skip' a step whose loss or gradient is not finite; what the
            config says, or 'stop', by default.
        cfg_options: Changes of the config, by dotted key.
        launcher: One of none, pytorch, slurm, mpi.

    Returns:
        The Runner, after training.

    Raises:
        UserError: If something that the user gave is missing or does not fit.
        CheckpointError: If weights cannot be fetched or loaded.
        Diverged: If the loss or a gradient became NaN or infinite.
        Interrupted: If SIGTERM or SIGINT stopped the training, after it saved where it was.
    """
    cfg = load_config(config, cfg_options, work_dir, launcher)
    drop_incomplete(cfg, "train")
    if amp:
        _enable_amp(cfg)
    if auto_scale_lr:
        _enable_auto_scale_lr(cfg)
    _choose_start(cfg, resume)
    check_sharding(cfg, channels_last, compile)
    allow_bad_images(cfg, skip_bad_images)
    use_trackers(cfg, log_to)
    check_train(cfg)
    declare(cfg)
    if on_divergence is not None:
        declared_hook(cfg, "pvt_mm.DivergenceHook").skip = on_divergence == "skip"
    if deterministic:
        make_deterministic(cfg)
    prepare_distributed(cfg)
    prepare_sharding(cfg)
    runner = build_runner(cfg)
    prepare_speed(runner, channels_last, compile)
    with interruptible(runner), disk_faults(runner.work_dir):  # whatever the config's loop
        runner.train()
    return runner


def build_runner(cfg: Config) -> Runner:
    """Build the config's Runner, of its ``runner_type`` if it names one."""
    if "name" in (cfg.get("visualizer") or {}):
        # By one name for all, the second run of a process would log into the first one's folder.
        del cfg.visualizer["name"]
    return RUNNERS.build(cfg) if "runner_type" in cfg else ToolRunner.from_cfg(cfg)


def _enable_amp(cfg: Config) -> None:
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if is_amp(cfg.optim_wrapper):
        log("--amp: the config trains in mixed precision already")
        return
    if kind != "OptimWrapper":
        raise UserError(f"--amp needs optim_wrapper.type 'OptimWrapper', but it is {kind!r}")
    cfg.optim_wrapper.type = "pvt_mm.AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def _enable_auto_scale_lr(cfg: Config) -> None:
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UserError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size")
    cfg.auto_scale_lr.enable = True


def _choose_start(cfg: Config, resume: str | None) -> None:
    """Settle which checkpoint to continue or to start from, if any."""
    if resume is None and cfg.get("resume") and not cfg.get("load_from"):
        resume = "auto"
    if resume == "auto":
        resume = latest_checkpoint(cfg.work_dir)
        if resume is None:
            cfg.resume = False
            log(f"--resume: no checkpoint in {cfg.work_dir} yet, training starts from the start")
    if resume is not None:
        cfg.resume = True
        cfg.load_from = resume
    if cfg.get("load_from"):
        drop_pretrained(cfg.model, f"{cfg.load_from} holds the whole model")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/train.py``.

    Args:
        argv: The command line without the program's name; ``sys.argv``'s by default.

    Returns:
        The exit code: 0, 2 for a mistake that stderr names in one line, or 143 or 130 if SIGTERM
        or SIGINT stopped the training.
    """
    parser = CommandLine("train.py", "Train a detector, a segmentor or a classifier.")
    parser.add_config()
    parser.add_flag("--amp", "train in mixed precision")
    parser.add_flag(
        "--auto-scale-lr", "scale the learning rate by batch size / auto_scale_lr.base_batch_size"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="FILE",
        help="continue from this checkpoint; without FILE (or auto) from the work dir's latest",
    )
    parser.add_flag(
        "--deterministic", "compute the same every time, even when interrupted and resumed; slower"
    )
    parser.add_argument(
        "--skip-bad-images",
        type=int,
        metavar="N",
        help="leave out up to N images that cannot be used, and name them; the next one stops the "
        "run, as the first does without this",
    )
    parser.add_argument(
        "--log-to",
        choices=TRACKERS,
        help="send scalars there, too; TensorBoard gets them wherever it is installed",
    )
    parser.add_argument(
        "--on-divergence",
        choices=("stop", "skip"),
        help="what to do when the loss or a gradient is NaN or infinite: stop (exit code 3), which "
        f"is the default, or skip that step, at most {MAX_SKIPS} times in a row",
    )
    parser.add_run_arguments()
    options = parser.options(argv)
    set_local_rank(options["launcher"], options.pop("local_rank"))
    return run_tool(recorded(lambda: run_train(**options)))
