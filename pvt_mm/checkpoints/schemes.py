"""How mmengine finds a checkpoint: what stands behind each prefix of its path."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pvt_mm.checkpoints.download import load_url
from pvt_mm.checkpoints.hub import load_from_hub
from pvt_mm.checkpoints.reading import safe_load
from pvt_mm.errors import CheckpointError, DownloadError

__all__ = ["FROM_SCRATCH", "LOADERS", "read_once"]

FROM_SCRATCH = "to train from scratch instead: --cfg-options model.backbone.init_cfg=None"


# mmengine logs the part of these names that follows "load_from_".
def load_from_local(filename: str, map_location: Any = None, *, mmap: bool = False) -> Any:
    """Load a file."""
    return safe_load(filename, map_location, mmap=mmap)


def load_from_http(
    filename: str, map_location: Any = None, model_dir: str | None = None, *, mmap: bool = False
) -> Any:
    """Load a file by URL."""
    return load_url(filename, map_location, model_dir, mmap=mmap)


def load_from_pvt(filename: str, map_location: Any = None, *, mmap: bool = False) -> Any:
    """Load an official release by its alias, such as ``pvt://pvt_v2_b2``."""
    from pvt_mm.archs import ARCHS

    arch = _look_up(filename.removeprefix("pvt://"), "pvt://", ARCHS)
    try:
        return load_url(arch.url, map_location, sha256=arch.sha256, mmap=mmap)
    except DownloadError as error:
        raise DownloadError(f"{error}; {FROM_SCRATCH}") from error


def load_from_hf(filename: str, map_location: Any = None, *, mmap: bool = False) -> Any:
    """Load a model of the Hugging Face hub, such as ``hf://OpenGVLab/pvt_v2_b0``."""
    return load_from_hub(filename.removeprefix("hf://"), map_location, mmap=mmap)


def load_from_timm(filename: str, map_location: Any = None, *, mmap: bool = False) -> Any:
    """Load a model of timm by its name, such as ``timm://pvt_v2_b2``; timm is not needed."""
    from pvt_mm.archs import ARCHS

    # timm has v2 only, trained by the authors: NAME and NAME.in1k are the same model.
    models = {name: f"timm/{name}.in1k" for name, arch in ARCHS.items() if arch.version == 2}
    name = filename.removeprefix("timm://").removesuffix(".in1k")
    return load_from_hub(_look_up(name, "timm://", models), map_location, mmap=mmap)


def read_once(filename: str) -> Any:
    """Read a checkpoint whose tensors are copied at once, such as into a module, on the CPU.

    Files are mapped into memory, so that the weights are not there a second time.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    from pvt_mm.checkpoints.loaders import register_loaders

    register_loaders()
    loader = CheckpointLoader._get_checkpoint_loader(filename)
    if loader not in _CAN_MAP:
        return CheckpointLoader.load_checkpoint(filename, map_location="cpu")
    return loader(filename, map_location="cpu", mmap=True)


def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Load weights of torchvision by name, which for the older ones needs no torchvision."""
    import mmengine
    from mmengine.runner.checkpoint import get_torchvision_models

    name = filename.split("://")[1]
    urls = mmengine.load(Path(mmengine.__file__).parent / "hub" / "torchvision_0.12.json")
    if name not in urls:
        with suppress(ImportError):  # then the error names the older ones only
            urls = get_torchvision_models()
    return load_url(_look_up(name, "torchvision://", urls), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """Load weights of OpenMMLab by name."""
    from mmengine.runner.checkpoint import get_deprecated_model_names, get_external_models

    name = filename.split("://")[1]
    name = get_deprecated_model_names().get(name, name)
    return load_url(_look_up(name, "open-mmlab://", get_external_models()), map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
    """Load the backbone of a classifier of MMClassification by name."""
    from mmengine.runner.checkpoint import get_mmcls_models

    url = _look_up(filename.removeprefix("mmcls://"), "mmcls://", get_mmcls_models())
    checkpoint = load_url(url, map_location)
    state = checkpoint.get("state_dict", checkpoint)
    prefix = "backbone."
    return {
        "state_dict": {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
    }


LOADERS = {
    "": load_from_local,
    "http://": load_from_http,
    "https://": load_from_http,
    "pvt://": load_from_pvt,
    "timm://": load_from_timm,
    "hf://": load_from_hf,
    "torchvision://": load_from_torchvision,
    "modelzoo://": load_from_torchvision,
    "open-mmlab://": load_from_openmmlab,
    "openmmlab://": load_from_openmmlab,
    "mmcls://": load_from_mmcls,
}
_CAN_MAP = (load_from_local, load_from_http, load_from_pvt, load_from_timm, load_from_hf)


def _look_up(name: str, scheme: str, urls: Mapping[str, Any]) -> Any:
    if name in urls:
        return urls[name]
    close = get_close_matches(name, urls, n=1, cutoff=0.4)
    nearest = f"did you mean {scheme}{close[0]}? " if close else ""
    names = sorted(urls)
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise CheckpointError(f"unknown weights {scheme}{name}: {nearest}known are {known}")
