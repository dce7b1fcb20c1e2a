"""Every mistake that the tools foresee ends in one line on stderr that names it, and code 2."""

import json
import logging
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from PIL import Image

from pvt_mm.checkpoints import download
from pvt_mm.config.arguments import check_arguments
from pvt_mm.config.loading import check_options, drop_pretrained, load_config
from pvt_mm.data.dataset_sources import Source
from pvt_mm.errors import UserError
from pvt_mm.training import distributed, test, train
from pvt_mm.visualization import browse

CONFIGS = Path(__file__).parents[1] / "configs"
DETECTOR = str(CONFIGS / "retinanet_pvt_v2_b0_fpn_1x_coco.py")
MASK_DETECTOR = str(CONFIGS / "mask_rcnn_pvt_v2_b0_fpn_1x_coco.py")
SEGMENTOR = str(CONFIGS / "fpn_pvt_v2_b0_ade20k_40k.py")
FROM_SCRATCH = "model.backbone.init_cfg=None"
LAUNCH_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_RANK",
    "RANK",
    "SLURM_PROCID",
)


class Started(Exception):
    """All checks have passed: the tool goes on to build its Runner."""


def write_image(path, size=(8, 8, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path)


def write_coco(root):
    for split in ("train2017", "val2017"):
        write_image(root / split / "1.jpg")
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}],
            "annotations": [],
            "categories": [
                {"id": number, "name": name}
                for number, name in enumerate(CocoDataset.METAINFO["classes"], 1)
            ],
        }
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def write_ade(root):
    for split in ("training", "validation"):
        write_image(root / "images" / split / "1.jpg")
        (root / "annotations" / split).mkdir(parents=True)
        labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 5
        Image.fromarray(labels).save(root / "annotations" / split / "1.png")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with sound tiny data sets and a sound-looking checkpoint, and nothing started."""
    write_coco(tmp_path / "coco")
    write_ade(tmp_path / "ade")
    torch.save({"state_dict": {}}, tmp_path / "good.pth")
    (tmp_path / "coco" / "data.yaml").write_text("names: [bolt]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "coco"))
    monkeypatch.setenv("ADE20K_ROOT", str(tmp_path / "ade"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name in LAUNCH_VARIABLES:
        monkeypatch.setenv(name, "0")  # so that all are put back afterwards
        monkeypatch.delenv(name)

    def start(cfg):
        raise Started

    def no_network(*args, **kwargs):
        raise OSError("no network in tests")

    # mmengine's logger may hold the output stream of an earlier test, closed since then.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(train, "build_runner", start)
    monkeypatch.setattr(test, "build_runner", start)
    monkeypatch.setattr(download, "urlopen", no_network)
    return tmp_path


def change_json(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def refused(capsys, main, argv):
    """Run a tool that must refuse; return what it says."""
    assert main([str(part) for part in argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("config", [DETECTOR, MASK_DETECTOR, SEGMENTOR])
def test_sound_training_starts(place, config):
    with pytest.raises(Started):
        train.main([config, "--work-dir", "out", "--cfg-options", FROM_SCRATCH])


@pytest.mark.parametrize("config", [DETECTOR, MASK_DETECTOR, SEGMENTOR])
def test_sound_test_starts_without_training_data(place, config):
    shutil.rmtree(place / "coco" / "train2017")
    shutil.rmtree(place / "ade" / "images" / "training")
    with pytest.raises(Started):
        test.main([config, "good.pth", "--work-dir", "out"])


def test_pictures_may_be_replaced(place):
    with pytest.raises(Started):
        test.main([DETECTOR, "good.pth", "--show-dir", "coco", "--overwrite"])


@pytest.mark.parametrize("part", ["dataloader", "cfg", "evaluator"])
def test_a_validation_without_one_of_its_parts_is_left_out(place, monkeypatch, part):
    seen = []

    def start(cfg):
        seen.append([cfg[f"val_{name}"] for name in ("dataloader", "cfg", "evaluator")])
        raise Started

    monkeypatch.setattr(train, "build_runner", start)
    with pytest.raises(Started):
        train.main([DETECTOR, "--cfg-options", FROM_SCRATCH, f"val_{part}=None"])
    assert seen == [[None] * 3]


@pytest.mark.parametrize("name", ["coco/bbox_mAP_50", "auto"])
def test_checkpoints_by_a_known_figure(place, name):
    best = f"default_hooks.checkpoint.save_best={name}"
    with pytest.raises(Started):
        train.main([DETECTOR, "--cfg-options", FROM_SCRATCH, best])


def without_annotations(place):
    path = place / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("format_only", [True, False])
def test_images_without_annotations_are_tested_for_others_to_score(place, capsys, format_only):
    without_annotations(place)
    argv = [DETECTOR, "good.pth", "--cfg-options", f"test_evaluator.format_only={format_only}"]
    if format_only:
        with pytest.raises(Started):
            test.main([*argv, "test_evaluator.outfile_prefix=out"])
    else:
        assert "has no list 'annotations'" in refused(capsys, test.main, argv)


def test_training_without_validation_needs_no_validation_data(place):
    shutil.rmtree(place / "coco" / "val2017")
    without = ["val_cfg=None", "val_dataloader=None", "val_evaluator=None"]
    with pytest.raises(Started):
        train.main([DETECTOR, "--work-dir", "out", "--cfg-options", FROM_SCRATCH, *without])


OPTION_MISTAKES = {
    "inner part": ("model.bakbone.arch=b1", ["model.bakbone.arch", "model.backbone.arch"]),
    "last part": (
        "train_dataloader.batchsize=2",
        ["train_dataloader.batchsize", "train_dataloader.batch_size"],
    ),
    "first part": ("modell.backbone.arch=b1", ["modell", "model.backbone.arch"]),
    "unknown first part": ("zzzz=1", ["zzzz"]),
    "list index": ("param_scheduler.7.end=1", ["param_scheduler.7.end", "param_scheduler is a"]),
    "classes": ("model.bbox_head.num_classes=3", ["model.bbox_head.num_classes", "3", "80"]),
    "weights file": (
        "model.backbone.init_cfg.checkpoint=none.pth",
        ["model.backbone.init_cfg.checkpoint none.pth", "not found"],
    ),
    "AMP twice": ("optim_wrapper.type=ApexOptimWrapper", ["--amp", "ApexOptimWrapper"]),
    "no scale": ("auto_scale_lr=None", ["--auto-scale-lr", "auto_scale_lr.base_batch_size"]),
    "transform": ("train_dataloader.dataset.pipeline.2.type=Resiz", ["Resiz", "registry"]),
    "evaluator": ("val_evaluator.ann_file=no.json", ["val_evaluator", "no.json", "not found"]),
} | {
    f"{key}={value}": (f"val_dataloader.dataset.{key}={value}", [f"dataset.{key}", *named])
    for key, value, *named in (
        ("metainfo.classes", "True", "names", "True"),
        ("metainfo.classes", "bolt", "a comma: ('bolt',)"),
        ("metainfo.classes", "[bolt,1]", "texts", "1"),
        ("metainfo.classes", "[bolt,nut,bolt]", "'bolt' twice"),
        ("data_root", "True", "a folder", "True"),
        ("data_prefix", "7", "a dict", "7"),
        ("backend_args", "[", "a dict", "'['"),
        ("_scope_", "True", "a text", "True"),
        ("pipeline", "7", "a list", "7"),
        ("type", "7", "a class", "7"),
        ("ann_file", "7", "a file", "7"),
    )
}


@pytest.mark.parametrize(("option", "named"), OPTION_MISTAKES.values(), ids=OPTION_MISTAKES)
def test_mistaken_option(place, capsys, option, named):
    options = [option] if "init_cfg" in option else [FROM_SCRATCH, option]
    flags = ["--amp"] if "Apex" in option else ["--auto-scale-lr"]
    line = refused(capsys, train.main, [DETECTOR, *flags, "--cfg-options", *options])
    assert all(name in line for name in named), line


def break_json(place):
    (place / "coco/annotations/instances_train2017.json").write_text('{"images": [')


def drop_categories(place):
    change_json(place / "coco/annotations/instances_train2017.json", categories=None)


def drop_images(place):
    change_json(place / "coco/annotations/instances_train2017.json", images=[])


def rename_categories(place):
    names = [{"id": 1, "name": "zebrafish"}]
    change_json(place / "coco/annotations/instances_train2017.json", categories=names)


DATA_FAULTS = {
    "annotation file": (
        DETECTOR,
        lambda place: (place / "coco/annotations/instances_train2017.json").unlink(),
        ["train_dataloader.dataset", "instances_train2017.json", "COCO_ROOT", "make_demo_data"],
    ),
    "image folder": (
        DETECTOR,
        lambda place: shutil.rmtree(place / "coco/val2017"),
        ["val_dataloader.dataset", "coco/val2017", "COCO_ROOT", "make_demo_data"],
    ),
    "JSON": (DETECTOR, break_json, ["instances_train2017.json", "not valid JSON"]),
    "no categories": (DETECTOR, drop_categories, ["instances_train2017.json", "'categories'"]),
    "no images": (DETECTOR, drop_images, ["instances_train2017.json", "no images"]),
    "other categories": (DETECTOR, rename_categories, ["zebrafish", "metainfo.classes"]),
    "listed image": (
        DETECTOR,
        lambda place: (place / "coco/train2017/1.jpg").unlink(),
        ["coco/train2017/1.jpg", "not found"],
    ),
    "ADE20K folder": (
        SEGMENTOR,
        lambda place: shutil.rmtree(place / "ade/images/training"),
        ["train_dataloader.dataset", "ade/images/training", "ADE20K_ROOT", "make_demo_data"],
    ),
    "ADE20K images": (
        SEGMENTOR,
        lambda place: (place / "ade/images/validation/1.jpg").unlink(),
        ["val_dataloader.dataset", "*.jpg", "ade/images/validation"],
    ),
    "ADE20K label map": (
        SEGMENTOR,
        lambda place: (place / "ade/annotations/training/1.png").unlink(),
        ["ade/annotations/training/1.png"],
    ),
}


@pytest.mark.parametrize(("config", "spoil", "named"), DATA_FAULTS.values(), ids=DATA_FAULTS)
def test_faulty_data(place, capsys, config, spoil, named):
    spoil(place)
    line = refused(capsys, train.main, [config, "--cfg-options", FROM_SCRATCH])
    assert all(name in line for name in named), line


def test_wrapped_data_sets_are_checked(place, capsys):
    config = place / "wrapped.py"
    config.write_text(
        f"_base_ = [{DETECTOR!r}]\n"
        "inner = dict(type='CocoDataset', data_root='coco', ann_file='one.json', pipeline=[])\n"
        "repeat = dict(type='RepeatDataset', times=2, dataset=inner)\n"
        "both = dict(_delete_=True, type='ConcatDataset', datasets=[repeat])\n"
        "train_dataloader = dict(dataset=both)\n"
    )
    line = refused(capsys, train.main, [config, "--cfg-options", FROM_SCRATCH])
    assert "train_dataloader.dataset.datasets.0.dataset" in line
    assert "coco/one.json" in line


COMMAND_FAULTS = {
    "config": (train.main, ["retinanet_pvt_v2_b0_fpn_1x_coc.py"], DETECTOR.split("/")[-1]),
    "resume": (train.main, [DETECTOR, "--resume", "none.pth"], "--resume none.pth not found"),
    "work dir": (train.main, [DETECTOR, "--work-dir", "good.pth/sub"], "good.pth is a file"),
    "pytorch": (train.main, [DETECTOR, "--launcher", "pytorch"], "tools/dist_train.sh"),
    "slurm": (train.main, [DETECTOR, "--launcher", "slurm"], "SLURM_PROCID"),
    "checkpoint": (test.main, [DETECTOR, "none.pth"], "none.pth not found; there is good.pth"),
    "checkpoint folder": (test.main, [DETECTOR, "coco"], "coco is a folder"),
    "not a checkpoint": (test.main, [DETECTOR, DETECTOR], "no checkpoint"),
    "remote": (test.main, [DETECTOR, "https://example.org/a.pth"], "https://example.org/a.pth"),
    "detection --out": (test.main, [DETECTOR, "good.pth", "--out", "folder"], "*.pkl"),
    "segmentation --out": (test.main, [SEGMENTOR, "good.pth", "--out", "a.pkl"], "a folder"),
    "filled --show-dir": (
        test.main,
        [DETECTOR, "good.pth", "--show-dir", "coco"],
        "--show-dir coco is not empty; --overwrite replaces",
    ),
    "filled --out-dir": (
        browse.main,
        [DETECTOR, "--out-dir", "coco"],
        "--out-dir coco is not empty; --overwrite replaces",
    ),
    "no evaluator": (
        test.main,
        [DETECTOR, "good.pth", "--cfg-options", "test_evaluator=None"],
        "no test_evaluator",
    ),
    "YOLO": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "train_dataloader.dataset.ann_file=data.yaml"],
        "data.yaml is YAML, as YOLO has it, not COCO's JSON; `python tools/prepare_data.py ",
    ),
    "best by an unknown figure": (
        train.main,
        [DETECTOR, "--cfg-options", "default_hooks.checkpoint.save_best=bbox_mAP"],
        "save_best is 'bbox_mAP', which the validation does not measure; did you mean coco/bbox_mA",
    ),
    "best of pixels": (
        train.main,
        [SEGMENTOR, "--cfg-options", "default_hooks.checkpoint.save_best=miou"],
        "save_best is 'miou', which the validation does not measure; did you mean mIoU?",
    ),
    "a hook that is none": (
        train.main,
        [DETECTOR, "--cfg-options", "default_hooks.checkpoint=1"],
        "default_hooks.checkpoint is 1, not a dict; write default_hooks.checkpoint=dict(...)",
    ),
    "hooks that are none": (
        train.main,
        [DETECTOR, "--cfg-options", "custom_hooks=1"],
        "custom_hooks is 1, not a list of dicts",
    ),
    "an evaluator that is none": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "val_evaluator=1"],
        "val_evaluator is 1; expected a metric's dict",
    ),
    "an evaluator with arguments of another": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "val_evaluator.type=VOCMetric"],
        "val_evaluator has ann_file, backend_args, format_only, which VOCMetric does not take; ",
    ),
    "a schedule with arguments of another": (
        train.main,
        [SEGMENTOR, "--cfg-options", FROM_SCRATCH, "train_cfg.max_epochs=2"],
        "train_cfg has max_epochs, which ResumableIterLoop does not take; it takes dynamic_",
    ),
    "arguments of no hook": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "custom_hooks.0.every=2"],
        "custom_hooks.0 has every, which AccelerateHook does not take; it takes priority, ",
    ),
    "arguments of no scheduler": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "param_scheduler.0.warmup=2"],
        "param_scheduler.0 has warmup, which LinearLR does not take",
    ),
    "arguments of no optimizer": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "optim_wrapper.optimizer.momentum=0.9"],
        "optim_wrapper.optimizer has momentum, which AdamW does not take; it takes ",
    ),
    "arguments of no neck": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "model.neck.levels=2"],
        "model.neck has levels, which FPN does not take; it takes act_cfg, ",
    ),
    "arguments of no visualizer": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "visualizer.colour=2"],
        "visualizer has colour, which ",
    ),
    "arguments of no log": (
        train.main,
        [DETECTOR, "--cfg-options", FROM_SCRATCH, "log_processor.window=2"],
        "log_processor has window, which LogProcessor does not take; it takes ",
    ),
    "arguments of no sampler": (
        test.main,
        [DETECTOR, "good.pth", "--cfg-options", "test_dataloader.sampler.order=2"],
        "test_dataloader.sampler has order, which DefaultSampler does not take",
    ),
    "one evaluator that is none": (
        test.main,
        [DETECTOR, "good.pth", "--cfg-options", "test_evaluator=[a]"],
        "test_evaluator is ['a']; expected a metric's dict",
    ),
    "no evaluator to write for": (
        test.main,
        [DETECTOR, "good.pth", "--out", "a.pkl", "--cfg-options", "test_evaluator=1"],
        "test_evaluator is 1; expected a metric's dict",
    ),
    "masks": (test.main, [MASK_DETECTOR, "good.pth", "--tta"], "--tta"),
    "no test data": (
        test.main,
        [DETECTOR, "good.pth", "--cfg-options", "test_dataloader=None"],
        "no test_dataloader",
    ),
}


@pytest.mark.parametrize(("main", "argv", "named"), COMMAND_FAULTS.values(), ids=COMMAND_FAULTS)
def test_faulty_command(place, capsys, main, argv, named):
    assert named in refused(capsys, main, argv)


def test_unavailable_weights_are_named_before_anything_starts(place, capsys):
    line = refused(capsys, train.main, [DETECTOR])
    assert "pvt_v2_b0.pth" in line
    assert "no network in tests" in line


def test_a_checkpoint_that_is_cut_short(place, capsys):
    whole = (place / "good.pth").read_bytes()
    (place / "half.pth").write_bytes(whole[: len(whole) // 2])
    line = refused(capsys, test.main, [DETECTOR, "half.pth"])
    assert "half.pth is truncated" in line


def test_windows_need_a_screen(place, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "--show-dir" in refused(capsys, test.main, [DETECTOR, "good.pth", "--show"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_work_dir_without_permission(place, capsys):
    (place / "locked").mkdir(mode=0o500)
    line = refused(capsys, train.main, [DETECTOR, "--work-dir", "locked/out"])
    assert "no permission" in line


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_cuda_asked_for_and_absent(place, capsys, monkeypatch, no_cuda):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    line = refused(capsys, train.main, [DETECTOR])
    assert "CUDA_VISIBLE_DEVICES=0" in line


def test_slurm_needs_cuda(place, capsys, monkeypatch, no_cuda):
    monkeypatch.setenv("SLURM_PROCID", "0")
    line = refused(capsys, train.main, [DETECTOR, "--launcher", "slurm"])
    assert "--launcher slurm needs CUDA" in line


@pytest.mark.parametrize(
    ("launcher", "variable", "expected"),
    [
        ("none", "SLURM_LOCALID", None),
        ("pytorch", "SLURM_LOCALID", "1"),
        ("slurm", "SLURM_LOCALID", "3"),
        ("mpi", "OMPI_COMM_WORLD_LOCAL_RANK", "3"),
    ],
)
def test_local_rank(monkeypatch, launcher, variable, expected):
    monkeypatch.setenv("LOCAL_RANK", "0")  # so that it is put back afterwards
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv(variable, "3")
    distributed.set_local_rank(launcher, 1)
    assert os.environ.get("LOCAL_RANK") == expected


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    distributed.check_device("pytorch")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 .* has no GPU: 2 visible"):
        distributed.check_device("pytorch")


def test_only_one_process_of_a_machine_speaks(place, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert train.main(["none.py"]) == 2
    assert capsys.readouterr().err == ""


def test_out_of_memory_names_three_remedies(place, capsys, monkeypatch):
    def run_out(cfg):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "build_runner", run_out)
    line = refused(capsys, train.main, [DETECTOR, "--cfg-options", FROM_SCRATCH])
    for remedy in ("train_dataloader.batch_size", "--amp", "model.backbone.with_cp"):
        assert remedy in line


UNREAD_KEYS = {
    "2.x schedule": (
        "lr_config = dict(step=[8])",
        "lr_config, which is of the 2.x style; set param",
    ),
    "2.x data": ("data = dict(samples_per_gpu=2)", "nothing reads data, .*train_dataloader"),
    "2.x length": ("total_epochs = 3", "train_cfg.max_epochs"),
    "2.x precision": ("fp16 = dict(loss_scale=512.)", "AmpOptimWrapper"),
    "optimizer": ("optimizer = dict(type='SGD', lr=1)", "set optim_wrapper.optimizer instead"),
    "misspelt": ("train_dataloder = dict(batch_size=4)", "did you mean train_dataloader"),
    "plural": ("param_schedulers = []", "did you mean param_scheduler"),
}


@pytest.mark.parametrize(("line", "named"), UNREAD_KEYS.values(), ids=UNREAD_KEYS)
def test_keys_that_nothing_would_read_are_refused(place, line, named):
    config = place / "mine.py"
    config.write_text(f"_base_ = [{DETECTOR!r}]\n{line}\n")
    with pytest.raises(UserError, match=named):
        load_config(config)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("train_pipeline = []", "nothing reads train_pipeline"),
        ("batch = 4", "nothing reads batch"),
        ("batch = 4\ntrain_dataloader = dict(batch_size=batch)", None),
        ("pipeline = []\ntrain_dataloader = dict(dataset=dict(pipeline=pipeline))", None),
        ("randomness = dict(seed=0)\nskip_bad_images = 3", None),
        ("a, b = 1, 2\nmax_epochs = a + b\ntrain_cfg = dict(max_epochs=max_epochs)", None),
    ],
)
def test_helpers_that_nothing_uses_are_said(place, lines, said):
    config = place / "mine.py"
    config.write_text(f"_base_ = [{DETECTOR!r}]\n{lines}\n")
    with patch("pvt_mm.config.unread.print_log") as log:
        load_config(config)
    messages = [call.args[0] for call in log.call_args_list]
    assert [said in message for message in messages] == ([True] if said else [])
    assert all(call.kwargs["level"] == logging.WARNING for call in log.call_args_list)


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTOR])
def test_configs_that_a_run_wrote_are_read(place, config):
    """They hold every helper of their bases, such as mmseg's optimizer."""
    Config.fromfile(config).dump(place / "dumped.py")
    with patch("pvt_mm.config.unread.print_log") as log:
        load_config(place / "dumped.py")
    assert not log.called


def test_a_whole_config_with_an_unused_helper_is_read(place):
    """As a run of mmseg's dumps it: the names that its bases used are values of their own."""
    config = place / "dumped.py"
    text = "model = dict(type='EncoderDecoder')\noptimizer = dict(type='AdamW', lr=1)\nbatch = 4\n"
    config.write_text(text + "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1))\n")
    assert load_config(config).optim_wrapper.optimizer.type == "AdamW"


@pytest.mark.parametrize("scale", [True, 3, "ab", ("a", "b"), (1, 2, 3)])
def test_unusual_scales_are_left_to_the_transform(scale):
    pipeline = [{"type": "Resize", "keep_ratio": True, "scale": scale}]
    assert Source("", {"pipeline": pipeline}, None).image_reader().max_ratio is None


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("model.backbone", "expected KEY=VALUE, got 'model.backbone'"),
        ("a==[[1,2],[3]]", "brackets that cannot be read in a==[[1,2],[3]]"),
    ],
)
def test_options_that_the_parser_refuses(place, capsys, option, named):
    with pytest.raises(SystemExit) as stop:
        train.main([DETECTOR, "--cfg-options", option])
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_arguments_that_a_head_drops_are_no_fault():
    """MMDetection's MaskFormerHead takes any keyword and hands none of them on."""
    head = {"type": "mmdet.MaskFormerHead", "in_index": [0]}
    check_arguments(Config({"model": {"type": "mmdet.MaskFormer", "panoptic_head": head}}), [])


def test_other_errors_keep_their_traceback(place, monkeypatch):
    def interrupt(cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "build_runner", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.main([DETECTOR, "--cfg-options", FROM_SCRATCH])


@pytest.mark.parametrize(
    "key",
    [
        "model.backbone.drop_rate",  # beside drop_path_rate
        "model.backbone.with_cp",
        "optim_wrapper.clip_grad.max_norm",
        "randomness.seed",
        "train_dataloader.dataset.indices",
        "model.bbox_head.loss_cls.reduction",
    ],
)
def test_new_keys_are_legal(key):
    check_options(Config.fromfile(DETECTOR), {key: 1})


@pytest.mark.parametrize(
    ("key", "legal"),
    [
        ("model.decode_head.loss_decode.class_weight", True),  # beside loss_weight
        ("model.decode_head.loss_decode.class_weigth", False),
        ("model.decode_head.loss_decode.loss_weigth", False),
    ],
)
def test_arguments_of_a_class_are_no_typing_errors(key, legal):
    cfg = Config.fromfile(SEGMENTOR)
    if legal:
        check_options(cfg, {key: [1.0, 2.0]})
    else:
        with pytest.raises(UserError, match="did you mean"):
            check_options(cfg, {key: [1.0, 2.0]})


def test_work_dir_by_priority(place):
    assert load_config(DETECTOR).work_dir == "work_dirs/retinanet_pvt_v2_b0_fpn_1x_coco"
    assert load_config(DETECTOR, {"work_dir": "mine"}).work_dir == "mine"
    assert load_config(DETECTOR, {"work_dir": "mine"}, "other").work_dir == "other"


def test_weights_that_a_checkpoint_overwrites_are_dropped():
    pretrained = dict(type="Pretrained", checkpoint="pvt://pvt_v2_b0")
    normal = dict(type="Normal", layer="Conv2d", std=0.01)
    cfg = Config(
        dict(
            model=dict(
                pretrained="open-mmlab://resnet50",
                backbone=dict(type="PVT", init_cfg=pretrained),
                heads=[dict(type="Head", init_cfg=normal)],
            )
        )
    )
    drop_pretrained(cfg.model, "of a test")
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.heads[0].init_cfg == normal


def test_resume_auto_without_checkpoint_keeps_load_from(place, monkeypatch):
    seen = []

    def start(cfg):
        seen.append((cfg.resume, cfg.load_from))
        raise Started

    monkeypatch.setattr(train, "build_runner", start)
    argv = [DETECTOR, "--work-dir", "out", "--resume", "--cfg-options", "load_from=good.pth"]
    with pytest.raises(Started):
        train.main(argv)
    (place / "out").mkdir(exist_ok=True)
    whole = {"meta": {"iter": 1}, "state_dict": {}, "optimizer": {}}
    torch.save(whole, place / "out" / "epoch_1.pth")
    (place / "out" / "last_checkpoint").write_text("out/epoch_1.pth")
    with pytest.raises(Started):
        train.main(argv)
    assert seen == [(False, "good.pth"), (True, "out/epoch_1.pth")]
