"""Checkpoints by URL: fetched once a machine, into the cache that mmengine and torch use."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from http.client import HTTPException, InvalidURL
from logging import WARNING
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.logging import print_log

from pvt_mm.checkpoints.reading import safe_load
from pvt_mm.errors import DamagedCheckpointError, DownloadError
from pvt_mm.files import replacing
from pvt_mm.version import __version__
from pvt_mm.wording import printable, public

__all__ = ["cached_path", "load_or_fetch", "load_url", "sha256_of"]

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


def cached_path(url: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Say where the file of ``url`` is kept, there or not."""
    try:
        name = os.path.basename(unquote(urlparse(url).path))
    except ValueError as error:
        raise DownloadError(f"{public(url)} is no URL: {error}") from None
    if name in ("", ".", ".."):
        raise DownloadError(f"{public(url)} names no file: give the URL of the checkpoint itself")
    return Path(cache_dir or os.path.join(torch.hub.get_dir(), "checkpoints"), name)


def load_url(
    url: str,
    map_location: Any = "cpu",
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    sha256: str = "",
    mmap: bool = False,
) -> Any:
    """Load a checkpoint from the cache, downloading it first if need be.

    A file that turns out to be damaged is fetched once more, and so is one that has another SHA-256
    than is known of it: from the caller, or from its name, if that ends in the first digits, as
    OpenMMLab's and torchvision's do.

    Args:
        url: ``http://`` or ``https://`` address of a checkpoint.
        map_location: As for :func:`safe_load`.
        cache_dir: Folder to keep the file in; ``checkpoints`` in torch's hub folder if None.
        sha256: The first digits of the file's SHA-256, or all, if they are known.
        mmap: As for :func:`safe_load`.

    Raises:
        DownloadError: If the file cannot be fetched; it says where to put it by other means.
        CheckpointError: If what came is no checkpoint.
    """
    target = cached_path(url, cache_dir)
    sha256 = sha256 or _hash_in(target.name)

    def fetch() -> None:
        _download(url, target)
        if sha256 and not sha256_of(target).startswith(sha256):
            print_log(f"{target} is not whole; downloading it again", "current", WARNING)
            _download(url, target)
            if not sha256_of(target).startswith(sha256):
                raise DownloadError(
                    f"{public(url)} is not the file that it should be: its SHA-256 does not begin "
                    f"with {sha256}; the file is kept as {target}, use that if you trust it"
                )

    def is_known() -> bool:
        """What the cache links to was not compared when it came."""
        linked = bool(sha256) and target.is_symlink()
        return not linked or sha256_of(target).startswith(sha256)

    return load_or_fetch(target, public(url), fetch, map_location, mmap=mmap, is_known=is_known)


def load_or_fetch(
    target: Path,
    source: str,
    fetch: Callable[[], None],
    map_location: Any,
    *,
    mmap: bool = False,
    is_known: Callable[[], bool] = lambda: True,
) -> Any:
    """Load a file that is fetched if it is absent, and once more if it is damaged.

    In a distributed job the first process of each machine fetches while the others wait.

    Args:
        target: Where the file is, or will be.
        source: Where it comes from, for messages.
        fetch: Puts it there, whatever is there before.
        map_location: As for :func:`safe_load`.
        mmap: As for :func:`safe_load`.
        is_known: Whether the file that is there may be used.
    """
    from mmengine.dist import barrier, get_dist_info

    def load() -> Any:
        was_cached = target.is_file() and is_known()
        if not was_cached:
            fetch()
        try:
            return safe_load(target, map_location, mmap=mmap)
        except DamagedCheckpointError as error:
            if not was_cached:
                target.unlink(missing_ok=True)
                raise DamagedCheckpointError(f"{error} (downloaded from {source})") from error
            print_log(f"{error}; downloading it again", logger="current", level=WARNING)
        fetch()
        return safe_load(target, map_location, mmap=mmap)

    rank, world_size = get_dist_info()
    if world_size == 1:
        return load()
    if int(os.environ.get("LOCAL_RANK", rank)) == 0:
        try:
            return load()
        finally:
            barrier()  # on failure too: nobody is to wait for ever
    barrier()
    return load()


def _hash_in(name: str) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    return found[1] if found else ""


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, target: Path) -> None:
    """Fetch a file so that ``target`` is either whole or as it was."""
    print_log(f"Downloading {public(url)} to {target}", logger="current")
    request = Request(url, headers={"User-Agent": f"pvt_mm/{__version__}"})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            with partial.open("wb") as file, urlopen(request, timeout=_TIMEOUT) as response:
                expected = int(response.headers.get("Content-Length") or 0)
                received = _copy(response.read, file.write, expected)
            if expected and received != expected:
                raise OSError(f"connection lost after {received} of {expected} bytes")
    except (OSError, HTTPException, ValueError) as error:
        # Such an error quotes parts of the URL, or of the proxy's, where passwords may stand.
        reason = "malformed URL or proxy" if isinstance(error, InvalidURL) else printable(error)
        raise DownloadError(
            f"cannot download {public(url)} ({reason}); fetch it by other means and save it as "
            f"{target}"
        ) from None


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
