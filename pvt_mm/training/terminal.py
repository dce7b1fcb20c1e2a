"""What of a run's log the terminal shows: all that one reads while it runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

__all__ = ["FileForDetails", "ToolRunner"]

# How the records begin that the log file alone gets: hundreds of lines before the first figure.
DETAILS = ("System environment:", "Config:", "Hooks will be executed in the following order:")


def _is_for_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip("\n-").startswith(DETAILS)


class FileForDetails:
    """Part of a Runner whose terminal does not show environment, config and order of hooks."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the Runner's logger."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                file = Path(handler.baseFilename)
                logger.info(f"environment, config and order of hooks: {file}")
            else:
                handler.addFilter(_is_for_reading)
        return logger


class ToolRunner(FileForDetails, Runner):
    """mmengine's Runner, with less in the terminal."""
