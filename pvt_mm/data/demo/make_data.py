"""The demo configs bring their data with them: made at the first run that misses them."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import log, walk
from pvt_mm.data.demo import DemoSpec, demo_root, make_demo_data
from pvt_mm.errors import UserError, run_tool

__all__ = ["main", "make_absent_demo_data"]


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/make_demo_data.py``; ``argv`` and the exit code as in :mod:`pvt_mm.cli`."""
    usual = DemoSpec()
    parser = CommandLine(
        "make_demo_data.py", "Write the synthetic demo data set; at once done if it is there."
    )
    parser.add_argument("--out", metavar="FOLDER", default=demo_root(), help="default: %(default)s")
    for name, what in (
        ("train", "training images"),
        ("val", "held-out images"),
        ("size", "side in pixels"),
        ("seed", "seed of the scenes"),
    ):
        default = getattr(usual, name)
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what}; default: %(default)s"
        )
    options = parser.options(argv)
    return run_tool(lambda: _make(options.pop("out"), options))


def _make(root: str, numbers: dict[str, int]) -> None:
    try:
        spec = DemoSpec(**numbers)
        made = make_demo_data(root, spec)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    state = "wrote" if made else "found"
    print(f"{state} {spec.train} training and {spec.val} validation images in {root}")
