"""How long training takes, from operations and an assumed speed."""

from mmengine.config import Config

__all__ = ["GPU_SPEED", "TRAIN_IMAGES", "training_hours", "training_images"]

# Operations a second of one V100 in float32, an assumption: half of what Detectron2's published
# 0.205 s/iteration of RetinaNet, ResNet-50, is by the same formula. See docs/scaling.md.
GPU_SPEED = 7e12
TRAIN_IMAGES = {"mmdet": 117266, "classification": 1281167}  # those of COCO that have boxes


def training_images(cfg: Config, gpus: int) -> int:
    """Count the images that a config's schedule goes through, repeats included."""
    loop = cfg.train_cfg
    if loop.get("max_iters"):
        return loop.max_iters * cfg.train_dataloader.batch_size * gpus
    return loop.max_epochs * TRAIN_IMAGES.get(cfg.get("default_scope"), 1281167)


def training_hours(multiply_adds: int, images: int, gpus: int) -> float:
    """Estimate hours of training.

    Args:
        multiply_adds: Of a forward pass of one image. A backward pass costs twice as much, and a
            multiply-add is two operations.
        images: Images, repeats included.
        gpus: GPUs, whose number does not slow any of them down here.
    """
    return 6 * multiply_adds * images / (gpus * GPU_SPEED) / 3600
