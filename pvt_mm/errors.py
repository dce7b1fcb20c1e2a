"""How the command-line tools report what a user can mend: one line, exit code 2."""

import os
import sys
from collections.abc import Callable

import torch

from pvt_mm.wording import some

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "DownloadError",
    "RefusedCheckpointError",
    "DIVERGED_CODE",
    "USER_ERROR_CODE",
    "Diverged",
    "InputSizeError",
    "Interrupted",
    "UserError",
    "run_tool",
    "some",
]

FETCH_AGAIN = "delete it and fetch it again"
# Set for processes whose recorded mistakes tools/_launch.py prints.
LAUNCHED = "PVT_MM_LAUNCHED"
USER_ERROR_CODE = 2
DIVERGED_CODE = 3

OUT_OF_MEMORY = (
    "the GPU ran out of memory; lower the batch size (--cfg-options "
    "train_dataloader.batch_size=1), add --amp, or trade time for memory with "
    "--cfg-options model.backbone.with_cp=True"
)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says which, why and what to do."""


class DamagedCheckpointError(CheckpointError):
    """The file is not, or not wholly, a checkpoint: empty, truncated, a web page, ..."""


class RefusedCheckpointError(CheckpointError):
    """The file asks for code that no checkpoint needs. None of it was executed."""


class DownloadError(CheckpointError):
    """The file could not be fetched."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what, and how to mend it."""


class InputSizeError(UserError, ValueError):
    """Images are too small for a network."""


class Diverged(Exception):
    """A training has come to numbers that are none; the message says where, and what may help."""


class Interrupted(SystemExit):
    """A signal has stopped a training, after it saved where it was.

    Whatever tool has started the training ends with ``code``, as shells have it: 143 for SIGTERM,
    130 for SIGINT.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def run_tool(action: Callable[[], object]) -> int:
    """Run a tool's work and turn the errors that a user can mend into one line.

    Every other exception, ``KeyboardInterrupt`` included, passes through with its traceback.

    Args:
        action: The work, without arguments.

    Returns:
        The exit code of the process: 0, or 2 after ``error: ...`` went to stderr, 3 if it says
        that a training has diverged, or that of the signal which stopped a training.
    """
    try:
        action()
    except (UserError, CheckpointError) as error:
        return USER_ERROR_CODE if hasattr(error, "is_recorded") else _report(str(error))
    except torch.cuda.OutOfMemoryError:
        return _report(OUT_OF_MEMORY)
    except Diverged as error:
        _report(str(error))
        return DIVERGED_CODE
    except Interrupted as stop:  # logged when it stopped
        return stop.code
    return 0


def _report(message: str) -> int:
    # All processes of a distributed run find the same fault: one per machine says so.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    return USER_ERROR_CODE
