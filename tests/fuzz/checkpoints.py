"""Random and mutated checkpoints: read, recognised and mapped, or refused in one line.

``python tests/fuzz/checkpoints.py --minutes 20`` looks for failures; ``--seed`` repeats a run.
"""

import contextlib
import io
import json
import pickletools
import sys
import tempfile
import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import _runner
import torch
from hostile import as_zip, by_opcodes
from hostile_files import legacy, safetensors
from hypothesis import strategies as st

from pvt_mm import PVT, PVTv2
from pvt_mm.checkpoints import CheckpointError, map_classifier, map_state_dict, safe_load
from pvt_mm.checkpoints.key_mapping import identify, unwrap
from pvt_mm.checkpoints.pretrained import fill_pretrained
from pvt_mm.conversion.conversion import FAMILIES, convert_state_dict

TINY = {"embed_dims": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
TINY |= {"mlp_ratios": (2, 2, 2, 2), "sr_ratios": (8, 4, 2, 1)}
OPCODES = [op for op in pickletools.opcodes if op.name not in ("STOP", "PROTO")]
NAMES = [
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "FloatStorage"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("builtins", "getattr"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("mmengine.logging.history_buffer", "HistoryBuffer"),
    ("os", "system"),
]


@cache
def networks():
    return PVT(TINY), PVTv2(TINY)


@cache
def states():
    """A state dict of each layout."""
    found = []
    for network in networks():
        state = network.state_dict()
        found.append(state)
        for family in FAMILIES:
            with contextlib.suppress(CheckpointError):
                found.append(convert_state_dict(state, family).state_dict)
    return found


@cache
def files():
    """The bytes of sound files in each layout of files."""
    content = {"state_dict": OrderedDict(a=torch.arange(4.0), b=torch.ones(2, 2).t()), "meta": {}}
    found = []
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        found.append(buffer.getvalue())
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    with tempfile.TemporaryDirectory() as folder:
        safetensors(Path(folder) / "a", header, b"\0" * 16)
        found.append((Path(folder) / "a").read_bytes())
    return found


def mutated(content):
    """Replace, insert and cut out bytes, mostly few."""
    place = st.integers(0, max(len(content) - 1, 0))
    edit = st.tuples(place, st.integers(0, 8), st.binary(max_size=8))

    def apply(edits):
        changed = bytearray(content)
        for start, length, new in edits:
            changed[start : start + length] = new
        return bytes(changed)

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def instructions():
    simple = st.sampled_from([(op.name,) for op in OPCODES if op.arg is None])
    named = st.sampled_from([("GLOBAL", *name) for name in NAMES])
    texts = st.tuples(st.just("BINUNICODE"), st.sampled_from(["storage", "0", "cpu", "f4", "mean"]))
    numbers = st.tuples(st.just("BININT1"), st.integers(0, 255))
    return st.lists(st.one_of(simple, named, texts, numbers), max_size=25).map(
        lambda lines: by_opcodes(*lines)
    )


VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=3),
    st.lists(st.integers(0, 5), max_size=5).map(torch.zeros),
    st.sampled_from([torch.int64, torch.bool, torch.float16, torch.complex64]).map(
        lambda dtype: torch.zeros(4, 4, dtype=dtype)
    ),
    st.just(torch.full((4,), float("nan"))),
)
JSONS = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["F32", "BF16", "I64"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner
        )
    ),
    max_leaves=12,
)


@st.composite
def changed_states(draw):
    """A sound state dict with other keys and values here and there, perhaps wrapped."""
    state = dict(draw(st.sampled_from(states())))
    for _ in range(draw(st.integers(0, 4))):
        key = draw(st.sampled_from(sorted(state)))
        action = draw(st.integers(0, 3))
        value = state.pop(key)
        other = draw(st.sampled_from(sorted(states()[draw(st.integers(0, 3))])) | st.text())
        if action == 0:
            state[key] = draw(VALUES)
        elif action == 1:
            state[other] = value
        elif action == 2:
            state[key] = state[other] = value
        if not state:
            break
    prefix = draw(st.sampled_from(["", "backbone.", "module.", "a.b.", "."]))
    state = {f"{prefix}{key}": value for key, value in state.items()}
    wrapper = draw(st.sampled_from([None, "state_dict", "model", "model_ema"]))
    return state if wrapper is None else {wrapper: state, "meta": draw(VALUES)}


CHECKPOINTS = st.one_of(
    st.sampled_from(files()).flatmap(mutated).map(lambda content: ("bytes", content)),
    st.binary(max_size=100).map(lambda content: ("bytes", content)),
    instructions().map(lambda content: ("pickle", content)),
    st.tuples(st.just("safetensors"), JSONS),
    st.tuples(st.just("state"), changed_states()),
    st.tuples(st.just("state"), VALUES | st.dictionaries(st.text() | st.integers(), VALUES)),
)


def check(example):
    """Put an example into files; each must be used, or refused with a CheckpointError."""
    kind, content = example
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "a.pth"
        if kind == "bytes":
            path.write_bytes(content)
            read(path)
        elif kind == "pickle":
            for write in (as_zip, legacy):
                write(path, content)
                read(path)
        elif kind == "safetensors":
            safetensors(path, json.dumps(content).encode(), b"\0" * 16)
            read(path)
        else:
            torch.save(content, path)
            read(path)


def read(path):
    with one_line():
        use(safe_load(path))


def use(loaded):
    for action in (
        lambda: map_state_dict(loaded),
        lambda: map_classifier(loaded, "backbone"),
        lambda: identify(unwrap(loaded)),
        *(lambda family=family: convert_state_dict(loaded, family) for family in FAMILIES),
        *(lambda n=network: fill_pretrained(n, loaded, "a.pth") for network in networks()),
    ):
        with one_line():
            action()


@contextlib.contextmanager
def one_line():
    """Pass over an error that users may see."""
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        assert text and len(text) < 20_000, f"{len(text)} characters"


if __name__ == "__main__":
    import logging

    logging.disable()
    with contextlib.redirect_stderr(io.StringIO()):
        states(), files()
    _runner.main(CHECKPOINTS, check)
