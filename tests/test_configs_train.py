"""The configs' data and training on tiny made-up images: one config per recipe."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from recipes import MODERN, ONE_PER_RECIPE, build_model, fresh, read

HEIGHT, WIDTH = 60, 90  # of the images on disk
SHAPE = (64, 96)  # of the images for training
# One per head, and the baselines' backbones: an output that no level uses would stop distributed
# training.
TRAINED = [
    "retinanet_pvt_t_fpn_1x_coco",
    "mask_rcnn_pvt_v2_b0_fpn_1x_coco",
    "cascade_mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain_fp16",
    "atss_pvt_v2_b2_fpn_3x_mstrain_fp16",
    "gfl_pvt_v2_b2_li_fpn_3x_mstrain_fp16",
    "sparse_rcnn_pvt_v2_b2_li_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
    "detr_pvt_s_8x2_50ep_coco",
    "fpn_pvt_v2_b2_li_ade20k_40k",
    "retinanet_r50_fpn_1x_coco",
    "retinanet_swin_t_fpn_1x_coco",
    "fpn_r50_ade20k_40k",
    "fpn_swin_t_ade20k_40k",
    *MODERN[::2],
]


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        cv2.imwrite(str(root / split / "1.jpg"), rng.integers(0, 255, (HEIGHT, WIDTH, 3)))
        box = [10, 5, 45, 40]  # x, y, width, height: still 32 pixels wide
        corners = [10, 5, 55, 5, 55, 45, 10, 45]
        annotation = dict(
            id=1, image_id=1, category_id=1, bbox=box, area=1800, iscrowd=0, segmentation=[corners]
        )
        content = dict(
            images=[dict(id=1, file_name="1.jpg", height=HEIGHT, width=WIDTH)],
            annotations=[annotation],
            categories=[dict(id=1, name="person")],
        )
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def ade_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("ade")
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind, suffix, shape in (("images", "jpg", (3,)), ("annotations", "png", ())):
            folder = root / kind / split
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 151, (HEIGHT, WIDTH, *shape), dtype=np.uint8)
            cv2.imwrite(str(folder / f"1.{suffix}"), pixels)
    return root


def has_masks(name):
    return "mask_rcnn" in name or "lsj" in name


def samples(cfg):
    """Return the first sample for training and for validation."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            yield DATASETS.build(loader.dataset)[0]


@pytest.mark.parametrize("name", [name for name in ONE_PER_RECIPE if "ade20k" not in name])
def test_coco_images_and_evaluator(name, coco_root):
    cfg = read(name, COCO_ROOT=coco_root)
    train, val = samples(cfg)
    short = 640 if name.endswith("_640") else 800
    size = (short, short * WIDTH // HEIGHT)
    assert val["data_samples"].img_shape == size
    assert val["inputs"].shape == (3, *size)
    sides = {640, 672, 704, 736, 768, 800}
    if "3x" in name or name.startswith(("dino", "deformable")):
        sides |= {480, 512, 544, 576, 608}
    elif "1x" in name:
        sides = {short}
    if "lsj" in name:
        assert max(train["inputs"].shape[1:]) <= 1024
    else:
        assert min(train["inputs"].shape[1:]) in sides
    with_masks = has_masks(name)
    assert ("masks" in train["data_samples"].gt_instances) == with_masks
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        metric = METRICS.build(cfg.val_evaluator)
    assert metric.metrics == (["bbox", "segm"] if with_masks else ["bbox"])


@pytest.mark.parametrize("name", ["fpn_pvt_t_ade20k_40k", *MODERN[6::2]])
def test_ade20k_images(name, ade_root):
    train, val = samples(read(name, ADE20K_ROOT=ade_root))
    # Ratio kept: 60x90 becomes 512x768. Labels are 0 to 150 in the file, 0 is to be ignored.
    assert val["inputs"].shape == (3, 512, 768)
    truth = val["data_samples"].gt_sem_seg.data
    assert truth.shape == (1, HEIGHT, WIDTH)
    assert set(truth.unique().tolist()) <= {*range(150), 255}
    assert max(train["inputs"].shape[1:]) <= 512


@pytest.mark.parametrize(
    ("size", "expected"),
    [((333, 500), (512, 800)), ((683, 512), (704, 512)), ((100, 1000), (224, 2048))],
)
def test_ade20k_test_images_go_up_to_multiples_of_32(ade_root, size, expected):
    cfg = read("fpn_pvt_t_ade20k_40k", ADE20K_ROOT=ade_root)
    with DefaultScope.overwrite_default_scope("mmseg"):
        pipeline = DATASETS.build(cfg.test_dataloader.dataset).pipeline
    resize, to_multiple = pipeline.transforms[1:3]
    image = np.zeros((*size, 3), np.uint8)
    results = to_multiple(resize(dict(img=image, img_shape=size)))
    assert results["img"].shape == (*expected, 3)


def detection_sample(with_masks):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor([[8.0, 8.0, 50.0, 60.0], [30.0, 10.0, 90.0, 50.0]])
    truth = InstanceData(bboxes=boxes, labels=torch.tensor([0, 79]))
    if with_masks:
        masks = np.zeros((2, *SHAPE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        truth.masks = BitmapMasks(masks, *SHAPE)
    meta = dict(img_shape=SHAPE, ori_shape=SHAPE, scale_factor=(1.0, 1.0), img_id=1)
    return DetDataSample(metainfo=meta, gt_instances=truth)


def segmentation_sample():
    from mmseg.structures import SegDataSample

    truth = PixelData(data=torch.randint(0, 150, (1, *SHAPE)))
    return SegDataSample(metainfo=dict(img_shape=SHAPE, ori_shape=SHAPE), gt_sem_seg=truth)


def shrink(cfg):
    """Fewer regions, a smaller crop, no weights, no mixed precision: a second on a CPU."""
    cfg.model.backbone.init_cfg = None
    cfg.optim_wrapper.type = "OptimWrapper"
    cfg.optim_wrapper.pop("loss_scale", None)
    model = cfg.model
    if cfg.default_scope == "mmseg":
        model.data_preprocessor.size = SHAPE
    for augment in model.data_preprocessor.get("batch_augments") or ():
        augment.size = SHAPE
    if model.get("as_two_stage"):
        model.num_queries = 50  # of so small an image's few tokens
    if "num_proposals" in model.get("rpn_head", {}):
        model.rpn_head.num_proposals = 10
    elif "rpn_head" in model:
        model.train_cfg.rpn_proposal.max_per_img = 20
        stages = model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16


@pytest.mark.parametrize("name", TRAINED)
def test_one_training_step(name):
    torch.manual_seed(0)
    cfg = fresh(name)
    shrink(cfg)
    model = revert_sync_batchnorm(build_model(cfg))
    model.init_weights()
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    parameters = {key: value for key, value in model.named_parameters() if value.requires_grad}
    before = {key: value.detach().clone() for key, value in parameters.items()}

    if cfg.default_scope == "mmseg":
        sample = segmentation_sample()
    else:
        sample = detection_sample(with_masks=has_masks(name))
    images = [torch.randint(0, 256, (3, *SHAPE), dtype=torch.uint8) for _ in range(2)]
    data = dict(inputs=images, data_samples=[sample, sample.clone()])
    losses = model(**model.data_preprocessor(data, training=True), mode="loss")
    loss, log = model.parse_losses(losses)
    optim_wrapper.backward(loss)
    without_gradient = [key for key, value in parameters.items() if value.grad is None]
    optim_wrapper.step()

    assert loss > 0
    assert all(torch.isfinite(value).all() for value in log.values())
    assert not without_gradient, "distributed training wants a gradient in every parameter"
    assert all(torch.isfinite(value).all() for value in parameters.values())
    moved = {key for key in parameters if not torch.equal(before[key], parameters[key])}
    still = {key.split(".")[0] for key in parameters} - {key.split(".")[0] for key in moved}
    # Deformable attention begins with projections of zeros, through which no gradient comes.
    assert still <= ({"level_embed"} if "level_embed" in parameters else set())
