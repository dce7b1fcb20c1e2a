"""Checkpoints by URL: fetched once a machine, into the cache that mmengine and torch use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from logging import WARNING
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.logging import print_log

from ..version import __version__
from .errors import DamagedCheckpointError, DownloadError
from .safe_load import safe_load

__all__ = ["cached_path", "load_url"]

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


def cached_path(url: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Say where the file of ``url`` is kept, there or not."""
    name = os.path.basename(unquote(urlparse(url).path))
    if name in ("", ".", ".."):
        raise DownloadError(f"{url} names no file: give the URL of the checkpoint itself")
    return Path(cache_dir or os.path.join(torch.hub.get_dir(), "checkpoints"), name)


def load_url(
    url: str, map_location: Any = "cpu", cache_dir: str | os.PathLike | None = None
) -> Any:
    """Load a checkpoint from the cache, downloading it first if need be.

    In a distributed job the first process of each machine downloads while the others wait. A file
    that turns out to be damaged is fetched once more.

    Args:
        url: ``http://`` or ``https://`` address of a checkpoint.
        map_location: As for :func:`safe_load`.
        cache_dir: Folder to keep the file in; ``checkpoints`` in torch's hub folder if None.

    Raises:
        DownloadError: If the file cannot be fetched; it says where to put it by other means.
        CheckpointError: If what came is no checkpoint.
    """
    from mmengine.dist import barrier, get_dist_info

    target = cached_path(url, cache_dir)
    rank, world_size = get_dist_info()
    if world_size == 1:
        return _load_or_fetch(url, target, map_location)
    if int(os.environ.get("LOCAL_RANK", rank)) == 0:
        try:
            return _load_or_fetch(url, target, map_location)
        finally:
            barrier()  # on failure too: nobody is to wait for ever
    barrier()
    return _load_or_fetch(url, target, map_location)


def _load_or_fetch(url: str, target: Path, map_location: Any) -> Any:
    was_cached = target.is_file()
    if not was_cached:
        _download(url, target)
    try:
        return safe_load(target, map_location)
    except DamagedCheckpointError as error:
        if not was_cached:
            target.unlink(missing_ok=True)
            raise DamagedCheckpointError(f"{error} (downloaded from {url})") from error
        print_log(f"{error}; downloading it again", logger="current", level=WARNING)
    _download(url, target)
    return safe_load(target, map_location)


def _download(url: str, target: Path) -> None:
    """Fetch a file so that ``target`` is either whole or as it was."""
    print_log(f"Downloading {url} to {target}", logger="current")
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(".partial", target.name + ".", target.parent)
        request = Request(url, headers={"User-Agent": f"pvt_mm/{__version__}"})
        with os.fdopen(handle, "wb") as file, urlopen(request, timeout=_TIMEOUT) as response:
            expected = int(response.headers.get("Content-Length") or 0)
            received = _copy(response.read, file.write, expected)
        if expected and received != expected:
            raise OSError(f"connection lost after {received} of {expected} bytes")
        os.chmod(partial, 0o644)  # mkstemp's files are private, the cache may be shared
        os.replace(partial, target)
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(
            f"cannot download {url} ({error}); fetch it by other means and save it as {target}"
        ) from error
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], Any], expected: int) -> int:
    """Copy all that comes, showing progress where somebody watches."""
    watched = sys.stderr.isatty()
    received = 0
    while chunk := read(_CHUNK):
        write(chunk)
        received += len(chunk)
        if watched:
            share = f" of {expected / 1e6:.1f}" if expected else ""
            print(f"\r  {received / 1e6:.1f}{share} MB", end="", file=sys.stderr, flush=True)
    if watched:
        print(file=sys.stderr)
    return received
