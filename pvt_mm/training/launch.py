"""torchrun, with what went wrong said in one line."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main as torchrun

from pvt_mm.errors import LAUNCHED, USER_ERROR_CODE

__all__ = ["main"]

# Torch's modules that report processes which failed; our reports stand for theirs.
REPORTERS = ("api", "errors.error_handler")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool in several processes, as ``python -m torch.distributed.run`` does.

    Args:
        argv: torchrun's options, the tool's script and its options; ``sys.argv``'s by default.

    Returns:
        The exit code: 0, that of the process which failed first, or 128 plus the number of the
        signal that killed it or stopped the run.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    training = any(os.path.basename(word) == "train.py" for word in argv)
    if os.environ.get("MAX_RESTARTS", "0") != "0":
        if "--standalone" not in argv:
            _say("MAX_RESTARTS works on a single machine only, and without PORT")
            return USER_ERROR_CODE
        if training and "--resume" not in argv:
            _say("MAX_RESTARTS is set: add --resume, else each restart trains from the start")
            return USER_ERROR_CODE
    os.environ[LAUNCHED] = "1"
    # Else a restart meets the addresses of the processes that have ended, and waits for them.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    for name in REPORTERS:
        logging.getLogger(f"torch.distributed.elastic.multiprocessing.{name}").setLevel("CRITICAL")
    try:
        torchrun(argv)
    except ChildFailedError as error:
        return _report_child(error, training)
    except SignalException as stop:
        return 128 + stop.sigval
    except (DistNetworkError, DistStoreError) as error:
        return _report_network(error)
    return 0


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _report_child(error: ChildFailedError, training: bool) -> int:
    rank, first = error.get_first_failure()
    if first.exitcode == USER_ERROR_CODE:
        if message := _recorded(first):
            _say(message)
        elif not _has_spoken(error.failures):
            _say(f"process {rank} ended with exit code {first.exitcode}")
        return USER_ERROR_CODE
    if first.exitcode > 128:  # a signal stopped it, as it has said
        return first.exitcode
    further = "; --resume goes on from the last checkpoint" if training else ""
    if first.exitcode < 0:
        why = ", by someone or for want of memory" if first.exitcode == -signal.SIGKILL else ""
        _say(f"process {rank} was killed by {first.signal_name()}{why}{further}")
        return 128 - first.exitcode
    _say(f"process {rank} failed with exit code {first.exitcode}, see above{further}")
    return first.exitcode


def _has_spoken(failures: dict[int, ProcessFailure]) -> bool:
    """Whether the first process of this machine, which speaks for all, got to say it."""
    return any(f.local_rank == 0 and f.exitcode == USER_ERROR_CODE for f in failures.values())


def _recorded(failure: ProcessFailure) -> str:
    """Read what :func:`pvt_mm.training.distributed.recorded` left for us."""
    message = (failure.error_file_data or {}).get("message", {})
    return message.get("message", "").partition(": ")[2]  # after the exception's name


def _report_network(error: Exception) -> int:
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("PORT", "29500")
    if "EADDRINUSE" in str(error):
        _say(f"port {port} is in use; set PORT to another, or on a single machine to none")
    else:
        _say(f"no connection with {address}:{port} (MASTER_ADDR and PORT): {error}")
    return USER_ERROR_CODE
