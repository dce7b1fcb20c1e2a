"""The demo: data, training, test and pictures of a small detector, on two CPU cores."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.structures import InstanceData

from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import CHECKOUT_CONFIGS, load_config, log
from pvt_mm.data.demo import DemoSpec, demo_root, make_demo_data
from pvt_mm.errors import UserError, run_tool
from pvt_mm.training.test import run_test
from pvt_mm.training.train import run_train

__all__ = ["DemoResult", "draw_pictures", "main", "report", "run_demo"]

CONFIG = CHECKOUT_CONFIGS / "retinanet_pvt_v2_b0_fpn_demo.py"
WORK_DIR = Path("work_dirs") / CONFIG.stem
NUM_PICTURES = 32
ZOOM = 6  # the images are too small for labels that one can read
SCORE_THR = 0.4


@dataclass(frozen=True)
class DemoResult:
    """What the demo reached, and where it put things.

    Attributes:
        ap: Box AP on the held-out images, averaged over IoU 0.5 to 0.95.
        ap50: Box AP at IoU 0.5.
        pictures: Folder of images with annotations (left) and detections (right).
        checkpoint: The trained weights.
    """

    ap: float
    ap50: float
    pictures: Path
    checkpoint: Path


def run_demo(
    work_dir: str | os.PathLike = WORK_DIR,
    config: str | os.PathLike = CONFIG,
    spec: DemoSpec | None = None,
) -> DemoResult:
    """Make the data, train, test and draw; what is done already is not done again.

    The data are made in the folder that ``DEMO_ROOT`` names, ``data/demo`` by default.

    Args:
        work_dir: Folder of checkpoints, logs and pictures. A training that was interrupted
            goes on from the last checkpoint in it.
        config: A detector's config for the demo data.
        spec: What data to make; the default data unless given.

    Raises:
        UserError: If something is in the way, with what to do about it.
    """
    work_dir = Path(work_dir)
    root = demo_root()
    try:
        if make_demo_data(root, spec):
            log(f"made the demo data in {root}")
    except (OSError, ValueError) as error:
        raise UserError(f"demo data: {error}") from error
    cfg = load_config(config, work_dir=work_dir)
    checkpoint = work_dir / f"epoch_{cfg.train_cfg.max_epochs}.pth"
    if checkpoint.is_file():
        log(f"{checkpoint} is there, so nothing is trained; delete {work_dir} to start again")
    else:
        run_train(config, work_dir=work_dir, resume="auto")
    predictions = work_dir / "predictions.pkl"
    metrics = run_test(config, checkpoint, work_dir=work_dir, out=predictions)
    pictures = work_dir / "pictures"
    draw_pictures(cfg, predictions, pictures)
    # Where nothing at all is detected mmdet reports no AP.
    ap, ap50 = (metrics.get(f"coco/{name}", 0.0) for name in ("bbox_mAP", "bbox_mAP_50"))
    return DemoResult(ap, ap50, pictures, checkpoint)


def draw_pictures(cfg: Config, predictions: Path, folder: Path, count: int = NUM_PICTURES) -> None:
    """Draw annotations and detections side by side on enlarged images.

    Args:
        cfg: The detector's config, for the test set and its colours.
        predictions: What ``run_test(..., out=...)`` wrote.
        folder: Where the pictures go, named like their images.
        count: How many of the first images to draw.
    """
    with DATASETS.switch_scope_and_registry("mmdet") as registry:
        dataset = registry.build({**cfg.test_dataloader.dataset, "pipeline": []})
    visualizer = DetLocalVisualizer(line_width=2)
    visualizer.dataset_meta = dataset.metainfo
    found = {item["img_id"]: item["pred_instances"] for item in load(predictions)}
    for index in range(min(count, len(dataset))):
        info = dataset.get_data_info(index)
        image = mmcv.imread(info["img_path"], channel_order="rgb")
        image = cv2.resize(image, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
        annotated, detected = info["instances"], found[info["img_id"]]
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=ZOOM * np.array([instance["bbox"] for instance in annotated]),
                labels=np.array([instance["bbox_label"] for instance in annotated]),
            ),
            pred_instances=InstanceData(
                bboxes=ZOOM * detected["bboxes"],
                labels=detected["labels"],
                scores=detected["scores"],
            ),
        )
        name = Path(info["img_path"]).name
        visualizer.add_datasample(
            name, image, sample, pred_score_thr=SCORE_THR, out_file=str(folder / name)
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/demo.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "demo.py", "Train, test and draw a small RetinaNet-PVTv2 on synthetic images."
    )
    parser.add_argument("--work-dir", default=WORK_DIR, help=f"default {WORK_DIR}")
    args = parser.parse_args(argv)
    return run_tool(lambda: report(run_demo(args.work_dir)))


def report(result: DemoResult) -> None:
    """Print what the demo found, and where its files are."""
    print(
        "\nRetinaNet-PVTv2-B0 on the held-out demo images\n"
        f"  box AP      {result.ap:.3f}\n"
        f"  box AP50    {result.ap50:.3f}\n"
        f"  pictures    {result.pictures.absolute()} (left annotated, right detected)\n"
        f"  checkpoint  {result.checkpoint.absolute()}"
    )
