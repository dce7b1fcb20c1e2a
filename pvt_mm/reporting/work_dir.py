"""What a work directory says of the training that made it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path

from mmengine.config import Config

from pvt_mm.errors import UserError
from pvt_mm.training.evidence import MARK
from pvt_mm.training.resuming.latest import POINTER

__all__ = ["WorkDir", "read_work_dir"]

_STAMP = re.compile(r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ")
_VALIDATED = re.compile(r" - INFO - (?:Epoch|Iter)\(val\) .*\[ *(\d+)/\1\] ")
_FACT = re.compile(r" {4}(\S[^:]*): (.*\S)")
# mmengine's banner of the environment: its title, and the line that ends it.
_TITLE = "System environment:"
_RULE = "-" * 60
_TOO_LONG = "PyTorch compiling details"


@dataclass(frozen=True)
class WorkDir:
    """A work directory of ``tools/train.py``.

    Args:
        path: The folder.
        config_path: The config as the last start dumped it, with all options; None if it is gone.
        environment: Versions, seed and launcher that the last start logged.
        times: When the training began and ended, and how long it ran.
        doubts: What the last validation's figures rest on, where that is little.
    """

    path: Path
    config_path: Path | None
    environment: dict[str, str]
    times: dict[str, str]
    doubts: list[str]

    @property
    def named_config(self) -> Path | None:
        """The dumped config under its own name if the folder holds only one, for command lines."""
        named = list(self.path.glob("*.py"))
        return named[0] if len(named) == 1 else self.config_path

    @property
    def config_text(self) -> str:
        """The dumped config, or nothing."""
        return "" if self.config_path is None else self.config_path.read_text(errors="replace")

    def config(self) -> Config:
        """Read the dumped config; like every config it is Python code, which runs.

        Raises:
            UserError: If there is none, or it cannot be read.
        """
        if self.config_path is None:
            raise UserError(f"{self.path}: no config in it, so that its test data are unknown")
        try:
            return Config.fromfile(str(self.config_path))
        except Exception as error:  # whatever the code in it raises
            raise UserError(f"config {self.config_path}: {error}") from error

    @property
    def checkpoint(self) -> str:
        """The last checkpoint, or a placeholder for a command line."""
        pointer = self.path / POINTER
        noted = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
        return str(self.path / Path(noted).name) if noted else "CHECKPOINT"


def read_work_dir(path: Path) -> WorkDir:
    """Collect what the page says of a run besides its scalars.

    Raises:
        UserError: If there is no such folder.
    """
    if not path.is_dir():
        raise UserError(f"work dir {path} not found; name one of tools/train.py")
    # Tests leave folders, too, but no scalars.
    starts = sorted(file.parents[1] for file in path.glob("*/vis_data/scalars.json"))
    dumped = [start / "vis_data" / "config.py" for start in starts[-1:]] + sorted(path.glob("*.py"))
    spans, environment, doubts = [], {}, []
    for log in (file for start in starts for file in sorted(start.glob("*.log"))):
        with log.open(errors="replace") as lines:
            environment = dict(_facts(lines)) or environment
            lines.seek(0)
            lines.seek(0)
            if (said := _doubts(lines)) is not None:
                doubts = said
            lines.seek(0)
            if span := _span(lines):
                spans.append(span)
    config = next((file for file in dumped if file.is_file()), None)
    return WorkDir(path, config, environment, _times(spans), doubts)


def _facts(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values from the banner of the environment."""
    if not any(line.startswith(_TITLE) for line in lines):
        return
    for line in takewhile(lambda line: not line.startswith(_RULE), lines):
        if (match := _FACT.match(line)) and match[1] != _TOO_LONG:
            yield match[1], match[2]


def _doubts(lines: Iterator[str]) -> list[str] | None:
    """Return what is said before the figures of the last validation; None if there is none."""
    said, last = [], None
    for line in lines:
        if MARK in line:
            said.append(line.partition(" - WARNING - ")[2].strip())
        elif _VALIDATED.search(line):
            said, last = [], said
    return last


def _span(lines: Iterator[str]) -> tuple[datetime, datetime] | None:
    """Return the first and the last time in a log."""
    stamps = [match[1] for line in lines if (match := _STAMP.match(line))]
    if not stamps:
        return None
    return _time(stamps[0]), _time(stamps[-1])


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y/%m/%d %H:%M:%S")


def _times(spans: list[tuple[datetime, datetime]]) -> dict[str, str]:
    if not spans:
        return {}
    total = sum((end - begin for begin, end in spans), timedelta())
    starts = f" in {len(spans)} starts" if len(spans) > 1 else ""
    return {
        "Started": f"{spans[0][0]:%Y-%m-%d %H:%M}",
        "Ended": f"{spans[-1][1]:%Y-%m-%d %H:%M}",
        "Ran for": f"{total}{starts}",
    }
