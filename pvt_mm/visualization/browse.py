"""What the pipeline of a config feeds the model, as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import track_iter_progress

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import is_classification, load_config
from pvt_mm.data.data_checks import check_data
from pvt_mm.data.demo.make_data import make_absent_demo_data
from pvt_mm.data.pictures import draw_input
from pvt_mm.errors import UserError, run_tool
from pvt_mm.training.outputs import prepare_folder

__all__ = ["browse_dataset", "main"]

SPLITS = ("train", "val", "test")


def browse_dataset(
    config: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    split: str = "train",
    overwrite: bool = False,
    count: int = 20,
    cfg_options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draw samples as they leave the pipeline, with boxes, masks or label colours.

    Args:
        config: A detection or segmentation config.
        out_dir: Where the pictures go, small ones enlarged: ``0000_NAME.png`` and so on.
        split: One of train, val, test.
        overwrite: Whether pictures of the same names there may be replaced.
        count: How many samples, from the first one on.
        cfg_options: Changes of the config, by dotted key.

    Returns:
        The pictures.

    Raises:
        UserError: If the config has no such split, its data are missing, or the folder is filled.
    """
    cfg = load_config(config, cfg_options)
    if is_classification(cfg):
        raise UserError("classification has no boxes or label maps to draw; look at the images")
    loader = cfg.get(f"{split}_dataloader")
    if loader is None:
        raise UserError(f"the config has no {split}_dataloader")
    prepare_folder("--out-dir", Path(out_dir), overwrite)
    make_absent_demo_data(cfg, (split,))
    check_data(cfg, (split,))
    init_default_scope(cfg.get("default_scope", "mmengine"))
    dataset = DATASETS.build(loader.dataset)
    paths = []
    for index in track_iter_progress(range(min(count, len(dataset)))):
        item = dataset[index]
        sample = item["data_samples"]
        path = Path(out_dir, f"{index:04d}_{Path(sample.img_path).stem}.png")
        mmcv.imwrite(draw_input(item, dataset, cfg), str(path))
        paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/browse_dataset.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine("browse_dataset.py", "Draw what the pipeline of a config feeds the model.")
    parser.add_config()
    parser.add_argument("--out-dir", default="browse", help="folder of pictures; default browse")
    parser.add_flag("--overwrite", "replace pictures of the same names there")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which data; train")
    parser.add_argument("--count", type=int, default=20, help="how many samples; 20")
    parser.add_cfg_options()
    options = parser.options(argv)

    def run() -> None:
        paths = browse_dataset(**options)
        print(f"\n{len(paths)} pictures are in {options['out_dir']}")

    return run_tool(run)
