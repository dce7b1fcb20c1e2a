"""What the user wants predicted: images and videos, and the names of what is written about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import TextIO
from urllib.parse import unquote, urlparse

from pvt_mm.errors import UserError
from pvt_mm.files import unique_stem
from pvt_mm.inference.pipeline import is_url

__all__ = ["Input", "find_inputs"]

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
STDIN = "-"


@dataclass(frozen=True)
class Input:
    """An image or a video.

    Attributes:
        path: A file or a URL, as the user wrote it or as it was found.
        name: What its outputs are called, without a suffix; no other input's are called so.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return _suffix(self.path) in VIDEOS


def find_inputs(arguments: Sequence[str], listed: TextIO) -> list[Input]:
    """Find the images and videos that a command line names, each once.

    Args:
        arguments: Files, folders, patterns, URLs; ``-`` stands for the lines of ``listed``, whose
            files need not exist: those that cannot be read are skipped later.
        listed: Standard input.

    Raises:
        UserError: If a file is missing, or a folder or pattern yields nothing.
    """
    paths = list(
        dict.fromkeys(path for argument in arguments for path in _expand(argument, listed))
    )
    if not paths:
        raise UserError("no inputs: standard input names none")
    names: set[str] = set()
    return [Input(path, unique_stem(_named_path(path), names)) for path in paths]


def _expand(argument: str, listed: TextIO) -> Iterator[str]:
    if argument == STDIN:
        yield from (line.strip() for line in listed if line.strip())
        return
    path = Path(argument).expanduser()
    if is_url(argument):
        yield argument
        return
    if path.is_file():
        yield str(path)
        return
    if path.is_dir():
        found = _media(path.iterdir())
        remedy = f"for those in folders below: '{argument.rstrip('/')}/**'"
    elif any(char in argument for char in "*?["):
        found = _media(Path(name) for name in glob(str(path), recursive=True))
        remedy = "quote the pattern, or the shell expands it"
    else:
        raise UserError(f"input {argument} not found")
    if not found:
        suffixes = " ".join(IMAGES + VIDEOS)
        raise UserError(f"no inputs in {argument}: no file ends in {suffixes} ({remedy})")
    yield from found


def _media(paths: Iterator[Path]) -> list[str]:
    return sorted(
        str(path) for path in paths if _suffix(str(path)) in IMAGES + VIDEOS and path.is_file()
    )


def _suffix(path: str) -> str:
    return PurePosixPath(urlparse(path).path if is_url(path) else path).suffix.lower()


def _named_path(path: str) -> PurePosixPath:
    return PurePosixPath(unquote(urlparse(path).path) if is_url(path) else path)
