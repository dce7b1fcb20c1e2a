"""Random ``--cfg-options`` and configs: they pass the checks before a run, or fail in one line.

``python tests/fuzz/config_options.py --minutes 20`` looks for failures; ``--seed`` repeats a run.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import _runner
from hypothesis import strategies as st
from mmengine.config import Config

from pvt_mm.checkpoints import CheckpointError
from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import load_config, walk
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.errors import UserError
from pvt_mm.training.preflight import check_test, check_train

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ("retinanet_pvt_v2_b0_fpn_demo.py", "fpn_pvt_v2_b0_demo.py")
VALUES = st.one_of(
    st.sampled_from(
        ["", "None", "True", "1", "-1", "0.5", "1e400", "nan", "[]", "[1,2]", "()", "(1,)", "{}"]
    ),
    st.sampled_from(
        ["[", "]]", "[1,", "(", "a,b", "[[1,2],[3]]", "'", '"', "a=b", "/", "none.pth"]
    ),
    st.sampled_from(["none.json", "..", "/dev/null", "pvt://none", "hf://a", "mmdet.ResNet"]),
    st.integers().map(str),
    st.text(max_size=8),
)


@cache
def folder():
    """Where tiny data sets are, and configs without bases, which take a second to read."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name)
    make_demo_data(path / "data", DemoSpec(train=2, val=2, size=64))
    os.environ["DEMO_ROOT"] = str(path / "data")
    for name in NAMES:
        Config.fromfile(CONFIGS / name).dump(path / name)
    return folder, path


@cache
def keys(name):
    """All dotted keys of a config."""
    found = set()
    for path, node in walk(Config.fromfile(folder()[1] / name)._cfg_dict):
        path = path.replace("[", ".").replace("]", "")
        found.update(f"{path}.{key}".lstrip(".") for key in node)
    return sorted(found)


def misspelt(key):
    place = st.integers(0, len(key))
    return st.tuples(place, place, st.text(max_size=2)).map(
        lambda edit: key[: min(edit[:2])] + edit[2] + key[max(edit[:2]) :]
    )


def pairs(name):
    sound = st.sampled_from(keys(name))
    key = st.one_of(sound, sound, sound.flatmap(misspelt), st.text(max_size=6))
    return st.lists(
        st.tuples(key, VALUES).map("=".join) | st.text(max_size=8), min_size=1, max_size=3
    )


OPTIONS = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(st.just(name), pairs(name), st.booleans())
)
# Lines that are put behind the content of a config.
LINES = st.one_of(
    st.text(max_size=20),
    st.tuples(
        st.sampled_from(
            ["model", "train_dataloader", "val_evaluator", "optim_wrapper", "load_from"]
        ),
        st.sampled_from(["None", "1", "'a'", "[]", "dict()", "dict(type=1)", "dict(type='No')"]),
    ).map(" = ".join),
    st.sampled_from(
        ["_base_ = 'none.py'", "_base_ = 1", "import none", "1/0", "model = dict(", "\0"]
    ),
)
CONTENTS = st.tuples(st.just("content"), LINES, st.sampled_from(NAMES))


def check(example):
    """Do what the tools do before they build a Runner."""
    configs = folder()[1]
    if example[0] == "content":
        _, line, name = example
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "config.py"
            base = f"_base_ = {str(configs / name)!r}\n"
            path.write_text(base + line + "\n", encoding="utf-8", errors="replace")
            attempt(path, {}, train=True)
        return
    name, texts, train = example
    parser = CommandLine("train.py", "")
    parser.add_cfg_options()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            options = parser.parse_args(["--cfg-options", *texts]).cfg_options
    except SystemExit:  # a message of one line
        return
    attempt(configs / name, options, train)


def attempt(path, options, train):
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(UserError, CheckpointError):
        cfg = load_config(path, options, place)
        if train:
            check_train(cfg)
        else:
            cfg.load_from = str(Path(place) / "none.pth")
            check_test(cfg)


EXAMPLES = OPTIONS | CONTENTS

if __name__ == "__main__":
    logging.disable()
    with contextlib.redirect_stderr(io.StringIO()):
        for name in NAMES:  # imports all that the rounds need
            check((name, ["work_dir=a"], True))
    _runner.main(EXAMPLES, check, examples=50)
