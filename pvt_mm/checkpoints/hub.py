"""Checkpoints of the Hugging Face hub, through huggingface_hub, into the cache of all others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from pvt_mm.checkpoints.download import load_or_fetch, sha256_of
from pvt_mm.errors import CheckpointError, DownloadError

__all__ = ["load_from_hub"]

# In this order: what nothing can execute comes first.
_USUAL_FILES = ("model.safetensors", "pytorch_model.bin")
_ADDRESS = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([^\s/]+))?(?:/([^\s@]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def load_from_hub(address: str, map_location: Any = None, *, mmap: bool = False) -> Any:
    """Load a model of the Hugging Face hub.

    A file that is here already needs neither the network nor huggingface_hub.

    Args:
        address: ``ORG/NAME``, ``ORG/NAME@REVISION``, and, for a file that is named neither
            ``model.safetensors`` nor ``pytorch_model.bin``, ``/FILE`` behind it.
        map_location: As for :func:`safe_load`.
        mmap: As for :func:`safe_load`.

    Raises:
        DownloadError: If it cannot be fetched; it says where to put the file by other means.
        CheckpointError: If ``address`` is none, or huggingface_hub is needed and absent.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise CheckpointError(f"hf://{address}: expected hf://ORG/NAME[@REVISION][/FILE]")
    repo, revision, file = match.groups()
    folder = Path(torch.hub.get_dir(), "checkpoints", "hf", repo, revision or "main")
    names = (file,) if file else _USUAL_FILES
    here = [name for name in names if (folder / name).is_file()]
    name = here[0] if here else _choose(repo, revision, names, folder)
    source = f"hf://{repo}{f'@{revision}' if revision else ''}/{name}"
    return load_or_fetch(
        folder / name, source, lambda: _fetch(repo, revision, name, folder), map_location, mmap=mmap
    )


def _hub(folder: Path, name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            "hf:// and timm:// need huggingface_hub, which is not installed: python -m pip install "
            f"huggingface_hub safetensors; or fetch {name} by other means and save it as "
            f"{folder / name}"
        ) from None
    return huggingface_hub


def _choose(repo: str, revision: str | None, names: tuple[str, ...], folder: Path) -> str:
    """Ask the hub which of the files there is."""
    hub = _hub(folder, names[0])
    for name in names:
        try:
            if hub.file_exists(repo, name, revision=revision):
                return name
        except Exception as error:
            raise _failure(repo, revision, names[0], folder, error) from error
    raise DownloadError(
        f"hf://{repo} has none of {', '.join(names)}: name its file, hf://{repo}/FILE"
    )


def _fetch(repo: str, revision: str | None, name: str, folder: Path) -> None:
    """Download a file, with huggingface_hub's progress bar, and compare its SHA-256."""
    hub = _hub(folder, name)
    try:
        found = hub.get_hf_file_metadata(hub.hf_hub_url(repo, name, revision=revision))
        path = hub.hf_hub_download(
            repo, name, revision=revision, local_dir=folder, force_download=True
        )
    except Exception as error:  # of many types: the network's, the hub's, the disk's
        raise _failure(repo, revision, name, folder, error) from error
    etag = (found.etag or "").strip('"')  # of a large file its SHA-256
    if _SHA256.fullmatch(etag) and sha256_of(Path(path)) != etag:
        Path(path).unlink()
        raise _failure(repo, revision, name, folder, "what came has another SHA-256")


def _failure(
    repo: str, revision: str | None, name: str, folder: Path, reason: Exception | str
) -> DownloadError:
    lines = str(reason).strip().splitlines()
    text = lines[0] if lines else type(reason).__name__
    at = f"@{revision}" if revision else ""
    return DownloadError(
        f"cannot download hf://{repo}{at}/{name} ({text}); fetch it by other means and save it "
        f"as {folder / name}"
    )
