"""Every config parses, says what the papers' recipes say and builds."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import TASK_UTILS, DefaultScope
from mmengine.structures import InstanceData
from recipes import (
    BASELINE_CHANNELS,
    BASELINE_WEIGHTS,
    CONFIGS,
    MODERN,
    NAMES,
    ONE_PER_RECIPE,
    PVT_NAMES,
    ROWS,
    SCHEDULES,
    build_model,
    fresh,
    head_of,
    in_channels,
    parsed,
    read,
)
from torch import nn

from pvt_mm.backbones import ARCHS
from pvt_mm.config.loading import load_config

SHORT_SIDES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


def loaders(cfg):
    return cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader


def find(node, key):
    """Yield every value of ``key`` in nested dicts and lists."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from find(child, key)


def step_of(pipeline, kind):
    (step,) = [step for step in pipeline if step.type == kind]
    return step


def test_the_recipes_and_the_baselines_are_all_there():
    assert sorted(ROWS) == NAMES
    papers = set(PVT_NAMES) - set(MODERN)
    assert (len(papers), len(MODERN)) == (45, 12)
    assert len(set(NAMES) - set(PVT_NAMES)) == 6
    for page in ("README.md", "CHANGELOG.md"):
        text = " ".join((CONFIGS.parent / page).read_text().split())
        assert "45 configs of the papers' recipes" in text, page
        assert "12 of the toolboxes' recipes" in text, page


@pytest.mark.parametrize("name", NAMES)
def test_leaf_is_short_and_says_what_it_is(name):
    lines = (CONFIGS / f"{name}.py").read_text().splitlines()
    images = ROWS[name][2]
    assert lines[0].startswith("# ")
    assert f"8 GPUs x {images} image" in lines[0]
    assert len(lines) <= 16


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_and_batch(name):
    _, _, images, lr, decay, amp = ROWS[name]
    cfg = parsed(name)
    wrapper = cfg.optim_wrapper
    defaults = dict(eps=1e-8, betas=(0.9, 0.999))  # Mask2Former's recipes write them down
    assert {**defaults, **wrapper.optimizer} == dict(
        type="AdamW",
        lr=pytest.approx(lr, rel=1e-4),
        weight_decay=decay,
        **defaults,
    )
    assert wrapper.type == ("pvt_mm.AmpOptimWrapper" if amp else "OptimWrapper")
    assert wrapper.get("loss_scale") == ("dynamic" if amp else None)
    clip = head_of(name)[1]
    assert (wrapper.get("clip_grad") or {}).get("max_norm") == clip
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=8 * images)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MODERN)))
def test_schedule(name):
    cfg = parsed(name)
    if "ade20k" in name:
        assert cfg.train_cfg.type == "pvt_mm.ResumableIterLoop"
        assert cfg.train_cfg.max_iters == 40000
        assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == 4000
        assert cfg.default_hooks.checkpoint.by_epoch is False
        (poly,) = cfg.param_scheduler
        assert poly == dict(type="PolyLR", power=0.9, eta_min=0, begin=0, end=40000, by_epoch=False)
        return
    (word,) = set(SCHEDULES) & set(name.split("_"))
    epochs, steps = SCHEDULES[word]
    assert cfg.train_cfg.type == "pvt_mm.ResumableEpochLoop"
    assert cfg.train_cfg.max_epochs == epochs
    *warm_up, multi_step = cfg.param_scheduler
    assert multi_step.type == "MultiStepLR"
    assert (multi_step.milestones, multi_step.gamma) == (steps, 0.1)
    assert (multi_step.begin, multi_step.end, multi_step.by_epoch) == (0, epochs, True)
    if word == "50ep":  # DETR starts at its full rate
        assert warm_up == []
    else:
        (linear,) = warm_up
        assert (linear.type, linear.begin, linear.end, linear.by_epoch) == (
            "LinearLR",
            0,
            500,
            False,
        )


# Of mmdet's and mmseg's configs of these heads: length, interval of validation, warm-up, decay.
MODERN_SCHEDULES = {
    "deformable_detr": (50, 1, 0, [40]),
    "dino": (12, 1, 0, [11]),
    "mask2former_coco": (368750, 5000, 0, [327778, 355092]),
    "upernet": (160000, 16000, 1500, 1.0),
    "segformer": (160000, 16000, 1500, 1.0),
    "mask2former_ade20k": (160000, 5000, 0, 0.9),
}


@pytest.mark.parametrize("name", MODERN)
def test_schedule_of_the_toolboxes(name):
    cfg = parsed(name)
    data = "ade20k" if "ade20k" in name else "coco"
    head = name.split("_pvt")[0]
    length, interval, warm_up, decay = (
        MODERN_SCHEDULES.get(head) or MODERN_SCHEDULES[f"{head}_{data}"]
    )
    loop, checkpoint = cfg.train_cfg, cfg.default_hooks.checkpoint
    by_epoch = length < 1000
    assert loop.type == f"pvt_mm.Resumable{'Epoch' if by_epoch else 'Iter'}Loop"
    assert (loop.max_epochs if by_epoch else loop.max_iters) == length
    assert loop.val_interval == checkpoint.interval == interval
    assert checkpoint.type == "pvt_mm.SafeCheckpointHook"
    schedules = cfg.param_scheduler
    *first, last = schedules if isinstance(schedules, list) else [schedules]
    assert [(one.type, one.begin, one.end) for one in first] == (
        [("LinearLR", 0, warm_up)] if warm_up else []
    )
    assert (last.begin, last.end, last.by_epoch) == (warm_up, length, by_epoch)
    assert (last.milestones if last.type == "MultiStepLR" else last.power) == decay


@pytest.mark.parametrize("name", NAMES)
def test_model(name):
    weights, drop_path, *_ = ROWS[name]
    cfg = parsed(name)
    detector, _, neck = head_of(name)
    backbone = cfg.model.backbone
    assert cfg.default_scope == ("mmseg" if "ade20k" in name else "mmdet")
    imports = ["pvt_mm"]
    if name.startswith("mask2former") and "ade20k" in name:
        imports.append("mmdet.models")  # as mmseg's own config
    assert cfg.custom_imports == dict(imports=imports, allow_failed_imports=False)
    assert cfg.model.type == detector
    counts = set(find(cfg.model, "num_classes")) | set(find(cfg.model, "num_things_classes"))
    assert counts == {150 if "ade20k" in name else 80}
    assert set(find(cfg.model, "num_stuff_classes")) <= {0}
    assert not cfg.model.get("pretrained")
    assert backbone.init_cfg.type == "Pretrained"
    if weights in ARCHS:
        family, arch = (
            ("PVT", weights[4:]) if ARCHS[weights].version == 1 else ("PVTv2", weights[7:])
        )
        expected = dict(type=f"pvt_mm.{family}", arch=arch, drop_path_rate=float(drop_path))
        assert backbone.init_cfg.checkpoint == f"pvt://{weights}"
        assert {key: backbone[key] for key in expected} == expected
        assert set(backbone) <= {*expected, "init_cfg", "out_indices"}
        channels = ARCHS[weights].embed_dims
    else:
        assert backbone.init_cfg.checkpoint.startswith(BASELINE_WEIGHTS[weights])
        assert str(backbone.get("drop_path_rate", "-")) == drop_path
        channels = BASELINE_CHANNELS[weights]
    levels = backbone.get("out_indices", (0, 1, 2, 3))
    assert in_channels(cfg.model) == [channels[level] for level in levels]
    usual = {"DETR": (3,), "DeformableDETR": (1, 2, 3), "DINO": (1, 2, 3)}
    assert levels == usual.get(detector, (0, 1, 2, 3)) or weights == "swin_t"
    skipped = levels[0] if weights == "swin_t" else 0
    for key, value in neck.items():
        expected = value - skipped if key == "start_level" else value
        assert cfg.model.neck[key] == expected, key


@pytest.mark.parametrize("name", NAMES)
def test_builds(name):
    weights = ROWS[name][0]
    cfg = parsed(name)
    # mmdet's and mmseg's Swin reads numbers off its tensors, which the meta device lacks.
    model = build_model(cfg, "cpu" if weights == "swin_t" else "meta")
    if weights in ARCHS:
        assert type(model.backbone).__module__.startswith("pvt_mm.")
    else:
        assert type(model.backbone).__module__.startswith(cfg.default_scope)
    if "neck" not in cfg.model:  # whose heads are tried with real maps in test_configs_train.py
        return
    mapper = cfg.model.neck.type == "ChannelMapper"
    convs = model.neck.convs if mapper else model.neck.lateral_convs
    start = cfg.model.neck.get("start_level", 0)
    assert [layer.conv.in_channels for layer in convs] == cfg.model.neck.in_channels[start:]


@pytest.mark.parametrize("name", [name for name in NAMES if "3x" in name])
def test_3x_crops_as_detr(name):
    pipeline = parsed(name).train_dataloader.dataset.pipeline
    plain, crop = step_of(pipeline, "RandomChoice").transforms
    every_side = [(side, 1333) for side in SHORT_SIDES]
    assert [(step.type, step.scales) for step in plain] == [("RandomChoiceResize", every_side)]
    assert [step.type for step in crop] == [
        "RandomChoiceResize",
        "RandomCrop",
        "RandomChoiceResize",
    ]
    assert crop[0].scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert (crop[1].crop_type, crop[1].crop_size) == ("absolute_range", (384, 600))
    assert crop[2].scales == every_side
    assert {"Resize", "RandomResize"}.isdisjoint(step.type for step in pipeline)


@pytest.mark.parametrize("name", NAMES)
def test_scales(name):
    cfg = parsed(name)
    scale = (1066, 640) if name.endswith("_640") else (1333, 800)
    scale = (2048, 512) if "ade20k" in name else scale
    for loader in loaders(cfg)[1:]:
        resize = step_of(loader.dataset.pipeline, "Resize")
        assert (resize.scale, resize.keep_ratio) == (scale, True)
    train = cfg.train_dataloader.dataset.pipeline
    assert step_of(train, "RandomFlip").prob == 0.5
    if "1x" in name:
        assert step_of(train, "Resize").scale == scale
    if name.startswith("detr"):
        sides = step_of(train, "RandomChoiceResize").scales
        assert sides == [(1333, side) for side in (640, 672, 704, 736, 768, 800)]
    if "lsj" in name:
        resize, crop = step_of(train, "RandomResize"), step_of(train, "RandomCrop")
        assert (resize.scale, resize.ratio_range) == ((1024, 1024), (0.1, 2.0))
        assert (crop.crop_size, crop.crop_type) == ((1024, 1024), "absolute")
        (pad,) = cfg.model.data_preprocessor.batch_augments
        assert (pad.type, pad.size) == ("BatchFixedSizePad", (1024, 1024))
    if name.startswith(("dino", "deformable")):
        plain, crop = step_of(train, "RandomChoice").transforms
        assert plain[0].scales == crop[2].scales == [(side, 1333) for side in SHORT_SIDES]
        assert crop[0].scales == [(400, 4200), (500, 4200), (600, 4200)]
        assert crop[1].crop_size == (384, 600)
    if "ade20k" in name:
        crop = step_of(train, "RandomCrop")
        if name.startswith("mask2former"):
            shortest = step_of(train, "RandomChoiceResize")
            assert (shortest.resize_type, shortest.max_size) == ("ResizeShortestEdge", 2048)
            assert (min(shortest.scales), max(shortest.scales)) == (256, 1024)
        else:
            resize = step_of(train, "RandomResize")
            assert (resize.scale, resize.ratio_range) == (scale, (0.5, 2.0))
        assert (crop.crop_size, crop.cat_max_ratio) == ((512, 512), 0.75)
        assert step_of(train, "PhotoMetricDistortion")


def test_cascade_heads():
    heads = parsed("cascade_mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16").model.roi_head.bbox_head
    assert [head.bbox_coder.target_stds for head in heads] == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ]
    for head in heads:
        assert head.type == "Shared4Conv1FCBBoxHead"
        assert head.norm_cfg.type == "SyncBN"
        assert (head.reg_class_agnostic, head.reg_decoded_bbox) == (False, True)
        assert head.loss_bbox == dict(type="GIoULoss", loss_weight=10.0)


def test_sparse_rcnn_has_300_proposals_and_6_stages():
    (name,) = [name for name in ONE_PER_RECIPE if name.startswith("sparse")]
    model = parsed(name).model
    assert model.rpn_head.num_proposals == model.test_cfg.rcnn.max_per_img == 300
    assert model.roi_head.num_stages == len(model.roi_head.bbox_head) == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_rcnn_matches_sure_predictions_in_half_precision(dtype):
    """A score of 1 in half precision must not make the matcher's costs infinite."""
    cfg = fresh("sparse_rcnn_pvt_v2_b2_fpn_300_proposals_crop_mstrain_480-800_3x_coco")
    with DefaultScope.overwrite_default_scope("mmdet"):
        assigner = TASK_UTILS.build(cfg.model.train_cfg.rcnn[0].assigner)
    boxes = torch.tensor(
        [[0.0, 0.0, 40.0, 40.0], [50.0, 50.0, 90.0, 90.0], [0.0, 50.0, 40.0, 90.0]]
    )
    scores = torch.full((3, 80), -20.0, dtype=dtype)
    scores[1, 7] = 20.0
    result = assigner.assign(
        InstanceData(bboxes=boxes, scores=scores),
        InstanceData(bboxes=boxes[1:2], labels=torch.tensor([7])),
        dict(img_shape=(100, 100)),
    )
    assert result.gt_inds.tolist() == [0, 1, 0]


def test_semantic_fpn_head():
    model = parsed("fpn_pvt_s_ade20k_40k").model
    head = model.decode_head
    assert (head.type, head.channels, head.dropout_ratio) == ("FPNHead", 128, 0.1)
    assert head.norm_cfg.type == "SyncBN"
    assert model.neck.out_channels == 256
    assert model.test_cfg.mode == "whole"
    assert model.data_preprocessor.size == (512, 512)


def param_groups(name):
    cfg = fresh(name)
    cfg.optim_wrapper.type = "OptimWrapper"
    cfg.optim_wrapper.pop("loss_scale", None)
    model = build_model(cfg, "meta")
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    return model, {id(parameter): group for group in groups for parameter in group["params"]}


@pytest.mark.parametrize(
    "name", [name for name in ONE_PER_RECIPE if "3x" in name and "sparse" not in name]
)
def test_3x_does_not_decay_norms(name):
    model, groups = param_groups(name)
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    decays = {True: set(), False: set()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            decays[isinstance(module, norms)].add(groups[id(parameter)]["weight_decay"])
    assert decays == {True: {0.0}, False: {0.05}}


def test_detr_trains_its_backbone_ten_times_slower():
    model, groups = param_groups("detr_pvt_s_8x2_50ep_coco")
    backbone = {groups[id(parameter)]["lr"] for parameter in model.backbone.parameters()}
    rest = {groups[id(parameter)]["lr"] for parameter in model.encoder.parameters()}
    assert max(backbone) == min(backbone) == pytest.approx(1e-5)
    assert rest == {1e-4}


@pytest.mark.parametrize("name", NAMES)
def test_what_mmengine_writes_of_it_is_read(name, tmp_path):
    """As training leaves it in the work directory, values of helpers included."""
    fresh(name).dump(tmp_path / "config.py")
    assert load_config(tmp_path / "config.py").model == parsed(name).model


@pytest.mark.parametrize("name", MODERN)
def test_multipliers_of_the_toolboxes(name):
    """Learning rates and weight decays, parameter by parameter, as the toolboxes set them."""
    cfg, (model, groups) = parsed(name), param_groups(name)
    optimizer = cfg.optim_wrapper.optimizer
    norm_types = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    head = name.split("_pvt")[0]
    found = {}
    for prefix, module in model.named_modules():
        for key, parameter in module.named_parameters(prefix, recurse=False):
            group = groups[id(parameter)]
            where = "backbone" if key.startswith("backbone.") else "rest"
            if "sampling_offsets" in key or "reference_points" in key:
                where = "points"
            if key.endswith(("query_embed.weight", "query_feat.weight", "level_embed.weight")):
                where = "queries"
            kind = "norms" if isinstance(module, norm_types) else "others"
            rate = group["lr"] / optimizer.lr, group["weight_decay"] / optimizer.weight_decay
            found.setdefault((where, kind), set()).add(tuple(round(part, 6) for part in rate))
    slow = 0.1 if head in ("deformable_detr", "dino", "mask2former") else 1
    free = 1 if head in ("deformable_detr", "dino") else 0
    assert found["backbone", "others"] == {(slow, 1)}
    assert found["backbone", "norms"] == {(slow, free)}
    fast = 10 if head == "segformer" else 1
    assert found["rest", "others"] == {(fast, 1)}
    assert found["rest", "norms"] == {(fast, 0 if head == "mask2former" else 1)}
    if head == "deformable_detr":
        assert found["points", "others"] == {(0.1, 1)}
    if head == "mask2former":
        assert found["queries", "others"] == {(1, 0)}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("name", ONE_PER_RECIPE)
def test_data_root_from_the_environment(name, slash):
    cfg = read(name, COCO_ROOT=f"/disk/coco{slash}", ADE20K_ROOT=f"/disk/ade{slash}")
    root = "/disk/ade" if "ade20k" in name else "/disk/coco"
    assert {path.rstrip("/") for path in find(cfg._cfg_dict.to_dict(), "data_root")} == {root}
    # Nor does the default stand anywhere else: variables, evaluators.
    everything = repr(cfg._cfg_dict.to_dict())
    assert "data/coco" not in everything
    assert "data/ade" not in everything
    if "ade20k" not in name:
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            assert evaluator.ann_file == "/disk/coco/annotations/instances_val2017.json"


@pytest.mark.parametrize("name", NAMES)
def test_data_root_by_default(name):
    cfg = parsed(name)
    root = "data/ade/ADEChallengeData2016" if "ade20k" in name else "data/coco/"
    assert {loader.dataset.data_root for loader in loaders(cfg)} == {root}
    if "ade20k" not in name:
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            assert evaluator.ann_file == "data/coco/annotations/instances_val2017.json"
