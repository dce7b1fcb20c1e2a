"""What can be wrong with a checkpoint."""

__all__ = ["CheckpointError", "DamagedCheckpointError", "DownloadError", "RefusedCheckpointError"]

FETCH_AGAIN = "delete it and fetch it again"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says which, why and what to do."""


class DamagedCheckpointError(CheckpointError):
    """The file is not, or not wholly, a checkpoint: empty, truncated, a web page, ..."""


class RefusedCheckpointError(CheckpointError):
    """The file asks for code that no checkpoint needs. None of it was executed."""


class DownloadError(CheckpointError):
    """The file could not be fetched."""
