"""The demo configs bring their data with them: made at the first run that misses them."""

import os
from pathlib import Path

from mmengine.config import Config

from pvt_mm.config.loading import log, walk
from pvt_mm.data.demo import demo_root, make_demo_data
from pvt_mm.errors import UserError

__all__ = ["make_absent_demo_data"]


def make_absent_demo_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Make the demo data set if the config reads it and its folder does not exist.

    What exists is never touched, whatever is in it. Several processes would write at once:
    a distributed run finds its data there or says that they are missing.

    Args:
        cfg: The whole config.
        splits: Those that the run uses, of 'train', 'val' and 'test'.

    Raises:
        UserError: If the folder cannot be written.
    """
    root = demo_root()
    if cfg.get("launcher", "none") != "none" or Path(root).exists():
        return
    loaders = [cfg.get(f"{split}_dataloader") for split in splits]
    roots = (node.get("data_root") for loader in loaders for _, node in walk(loader))
    if not any(path and os.path.normpath(path) == os.path.normpath(root) for path in roots):
        return
    log(f"{root} is not there; the demo data are made in it")
    try:
        make_demo_data(root)
    except OSError as error:
        raise UserError(f"demo data: {error}") from error
