"""Test-time augmentation: a config's own, or the image and its mirror image."""

from copy import deepcopy

from mmengine.config import Config, ConfigDict

from pvt_mm.config.loading import is_segmentation, log
from pvt_mm.errors import UserError

__all__ = ["use_tta"]

# Results are mapped back by these; the plain test pipeline need not pack the flips.
DETECTION_META = (
    "img_id",
    "img_path",
    "ori_shape",
    "img_shape",
    "scale_factor",
    "flip",
    "flip_direction",
)


def use_tta(cfg: Config) -> None:
    """Test several views of each image and merge their predictions.

    Args:
        cfg: The config, changed in place; its ``tta_model`` and ``tta_pipeline`` are used if
            it has them.

    Raises:
        UserError: If the model predicts instance masks, which mmdet cannot merge.
    """
    segmentation = is_segmentation(cfg)
    if not segmentation and (cfg.model.get("roi_head") or {}).get("mask_head"):
        raise UserError("--tta: mmdet merges boxes only, and this model predicts masks as well")
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_model" not in cfg:
        cfg.tta_model = _default_model(segmentation)
    if "tta_pipeline" not in cfg:
        log("--tta: the config has no tta_pipeline; the image and its mirror image are used")
        cfg.tta_pipeline = _mirrored(dataset.pipeline, segmentation)
    dataset.pipeline = cfg.tta_pipeline
    # Without it the Runner takes the config's top-level one, which need not be the model's.
    preprocessor = cfg.model.get("data_preprocessor")
    cfg.model = ConfigDict(
        {"data_preprocessor": preprocessor, **cfg.tta_model, "module": cfg.model}
    )


def _default_model(segmentation: bool) -> dict:
    if segmentation:
        return {"type": "SegTTAModel"}
    nms = {"type": "nms", "iou_threshold": 0.5}
    return {"type": "DetTTAModel", "tta_cfg": {"nms": nms, "max_per_img": 100}}


def _mirrored(pipeline: list, segmentation: bool) -> list:
    """Turn a test pipeline into one that ends with two views of the image."""
    *steps, pack = deepcopy(list(pipeline))
    if not segmentation:
        pack["meta_keys"] = DETECTION_META
    # The plain view comes first: annotations are drawn from that one.
    flips = [{"type": "RandomFlip", "prob": prob} for prob in (0.0, 1.0)]
    return [*steps, {"type": "TestTimeAug", "transforms": [flips, [pack]]}]
