"""Several processes: what the launchers need, with CUDA and without."""

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from pvt_mm.checkpoints import CheckpointError
from pvt_mm.config.loading import log, walk
from pvt_mm.errors import LAUNCHED, UserError

__all__ = ["check_device", "prepare_distributed", "recorded", "set_local_rank"]

SYNC_BATCH_NORMS = {"SyncBN", "MMSyncBN", "SyncBatchNorm"}
# What tells that a process was started by its launcher.
LAUNCHER_VARIABLE = {
    "pytorch": ("RANK", "start it with tools/dist_train.sh or torchrun"),
    "slurm": ("SLURM_PROCID", "start it with tools/slurm_train.sh or srun"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "start it with mpirun"),
}


def set_local_rank(launcher: str, option: int) -> None:
    """Tell this process, by ``LOCAL_RANK``, which one of its machine's it is.

    torchrun has done so already; mmengine does it for Slurm, but only later, and never for MPI.

    Args:
        launcher: One of none, pytorch, slurm, mpi.
        option: ``--local-rank``, the way in which older launchers say it.
    """
    variables = {"slurm": "SLURM_LOCALID", "mpi": "OMPI_COMM_WORLD_LOCAL_RANK"}
    if launcher != "none":
        rank = os.environ.get(variables.get(launcher, ""), str(option))
        os.environ.setdefault("LOCAL_RANK", rank)


def recorded(action: Callable[[], object]) -> Callable[[], object]:
    """Let ``action`` leave a user's mistake to our launcher, which prints it once.

    torch's launcher ends all processes when one has failed. Printed by the first process of a
    machine, a mistake that another one finds sooner would never be seen, or be seen twice.
    """

    def run() -> object:
        try:
            return action()
        except (UserError, CheckpointError) as error:
            if LAUNCHED in os.environ and "TORCHELASTIC_ERROR_FILE" in os.environ:
                get_error_handler().record_exception(error)
                error.is_recorded = True
            raise

    return run


def check_device(launcher: str) -> None:
    """Check that the processes and GPUs that the user asked for are there.

    Raises:
        UserError: If GPUs were asked for and there are none, if there are fewer than
            processes, or if the launcher's variables are missing.
    """
    asked = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if asked not in ("", "-1") and not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "finds no usable GPU"
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={asked} asks for CUDA, but torch {torch.__version__} {why}; "
            "unset the variable to run on the CPU"
        )
    if launcher == "none":
        return
    variable, remedy = LAUNCHER_VARIABLE[launcher]
    if variable not in os.environ:
        raise UserError(f"--launcher {launcher}: variable {variable} is not set; {remedy}")
    if not torch.cuda.is_available():
        if launcher != "pytorch":
            raise UserError(
                f"--launcher {launcher} needs CUDA, which torch {torch.__version__} does not "
                "find here; on CPUs use --launcher pytorch"
            )
        return
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if launcher == "pytorch" and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} "
            "visible; start fewer processes or change CUDA_VISIBLE_DEVICES"
        )


def prepare_distributed(cfg: Config) -> None:
    """Make a distributed run possible without CUDA; with CUDA mmengine does all itself.

    mmengine's launcher asks CUDA for a device, its wrapper passes a GPU index and its layers
    synchronise batch statistics on GPUs only. So on CPUs: gloo is started before the Runner
    (which then leaves the process group alone), the wrapper gets no device, and SyncBN becomes
    BN. In a run of one process the Runner turns SyncBN into BN itself.
    """
    if cfg.launcher != "pytorch" or torch.cuda.is_available():
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    cfg.env_cfg = {**cfg.get("env_cfg", {}), "dist_cfg": {"backend": "gloo"}}
    if cfg.get("model_wrapper_cfg") is None:
        cfg.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
        }
    cfg.model_wrapper_cfg["device_ids"] = None
    _plain_batch_norm(cfg)


def _plain_batch_norm(cfg: Config) -> None:
    changed = 0
    for _, node in walk(cfg.model):
        if node.get("type") in SYNC_BATCH_NORMS:
            node["type"] = "BN"
            changed += 1
    if changed or cfg.get("sync_bn"):
        cfg.sync_bn = None
        log("SyncBN needs CUDA: plain BN is used, each process with its own statistics")
