"""Reading checkpoints: what mmengine saves arrives whole, and nothing is ever executed."""

import argparse
import hashlib
import io
import json
import sys
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hostile import LAYOUTS, PICKLES, SHOULD_NAME, Call, as_legacy, as_zip, by_opcodes, dumps
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner

import pvt_mm  # noqa: F401
from pvt_mm.checkpoints import (
    CheckpointError,
    DamagedCheckpointError,
    RefusedCheckpointError,
    download,
    safe_load,
)

READER = sys.modules["pvt_mm.checkpoints.reading"]


@pytest.fixture(params=["torch >= 2.6", "torch < 2.6"])
def any_torch(request, monkeypatch):
    """Read as on either side of torch 2.6, as far as one torch can show it."""
    monkeypatch.setattr(READER, "TORCH_TAKES_ALLOW_LIST", request.param == "torch >= 2.6")


def history(values):
    buffer = HistoryBuffer()
    for value in values:
        buffer.update(value)
    return buffer


def training_checkpoint():
    """What mmengine's Runner and, in other places, MMDetection 2.x put into a file."""
    weight = torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(weight=weight, tied=weight, half=weight.bfloat16())
    state._metadata = OrderedDict({"": {"version": 1}})
    return {
        "meta": {
            "env_info": "sys.platform: linux\nPyTorch: 1.9.0",
            "config": "model = dict(\n    type='RetinaNet')\n",
            "CLASSES": ("person", "bicycle"),
            "PALETTE": [[220, 20, 60], [119, 11, 32]],
            "hook_msgs": {"best_score": np.float64(0.25), "last_ckpt": "epoch_1.pth"},
            "seed": np.int64(7),
            "name": np.str_("demo"),
            "epoch": 1,
        },
        "state_dict": state,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}},
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
        },
        "message_hub": {
            "log_scalars": OrderedDict(loss=history([1.5, 1.25]), empty=history([])),
            "resumed_keys": OrderedDict(loss=True),
        },
        "plain": (None, True, 2**70, b"bytes\xff", {1, 2}, 1j, torch.Size([1]), torch.float16),
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "dtype": np.dtype("float32"),
        "counts": defaultdict(list, a=[1]),
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2]),
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoint_arrives_whole(tmp_path, any_torch, legacy):
    saved = training_checkpoint()
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    loaded = safe_load(tmp_path / "a.pth")

    assert list(loaded) == list(saved)
    assert loaded["meta"] == saved["meta"]
    assert type(loaded["meta"]["hook_msgs"]["best_score"]) is np.float64
    assert type(loaded["meta"]["seed"]) is np.int64
    assert loaded["plain"] == saved["plain"]
    assert loaded["device"] == torch.device("cpu")
    assert loaded["dtype"] == np.dtype("float32")
    assert loaded["counts"] == {"a": [1]}
    assert loaded["args"] == argparse.Namespace(lr=0.1, sizes=[1, 2])
    assert type(loaded["parameter"]) is torch.nn.Parameter

    state = loaded["state_dict"]
    assert type(state) is OrderedDict and state._metadata == saved["state_dict"]._metadata
    assert torch.equal(state["weight"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert state["tied"].data_ptr() == state["weight"].data_ptr()
    assert state["half"].dtype is torch.bfloat16
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], torch.ones(2, 3))
    assert loaded["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]

    array = loaded["array"]
    assert type(array) is np.ndarray and array.dtype == np.dtype(">i4")
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]] and array.flags.writeable

    loss = loaded["message_hub"]["log_scalars"]["loss"]
    assert type(loss) is HistoryBuffer and loss.max_length == 1000000
    assert loss.data[0].tolist() == [1.5, 1.25] and loss.data[1].tolist() == [1, 1]
    assert loss.statistics("mean") == 1.375
    loss.update(2)
    assert loss.current() == 2
    assert len(loaded["message_hub"]["log_scalars"]["empty"].data[0]) == 0


def test_loads_what_numpy_1_wrote(tmp_path, any_torch):
    pickled = dumps({"a": np.arange(3.0), "b": np.float32(0.5)})
    assert b"numpy._core.multiarray\n" in pickled or b"numpy.core.multiarray\n" in pickled
    for core in (b"numpy.core.", b"numpy._core."):
        renamed = pickled.replace(b"numpy._core.", core).replace(b"numpy.core.", core)
        loaded = safe_load(as_zip(tmp_path / "a.pth", renamed))
        assert loaded["a"].tolist() == [0, 1, 2] and loaded["b"] == np.float32(0.5)


def test_loads_again_what_it_loaded(tmp_path, any_torch):
    torch.save(training_checkpoint(), tmp_path / "a.pth")
    torch.save(safe_load(tmp_path / "a.pth"), tmp_path / "b.pth")
    again = safe_load(tmp_path / "b.pth")
    assert again["message_hub"]["log_scalars"]["loss"].data[0].tolist() == [1.5, 1.25]


def test_shared_and_cyclic_objects_stay_so(tmp_path, any_torch):
    shared, cyclic = history([1.0]), {}
    cyclic["self"] = cyclic
    torch.save({"a": shared, "b": (shared,), "cyclic": cyclic}, tmp_path / "a.pth")
    loaded = safe_load(tmp_path / "a.pth")
    assert loaded["a"] is loaded["b"][0]
    assert loaded["cyclic"]["self"] is loaded["cyclic"]


def test_map_location(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    assert safe_load(tmp_path / "a.pth", None)["a"].device.type == "cpu"
    assert safe_load(tmp_path / "a.pth", "meta")["a"].device.type == "meta"
    assert safe_load(str(tmp_path / "a.pth"), lambda storage, _: storage)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PICKLES)
def test_hostile_file_is_refused_and_not_executed(tmp_path, any_torch, name, layout):
    canary = tmp_path / "canary"
    path = LAYOUTS[layout](tmp_path / "hostile.pth", PICKLES[name](canary))
    statistics = dict(HistoryBuffer._statistics_methods)
    with pytest.raises(CheckpointError) as caught:
        safe_load(path)
    assert not canary.exists()
    assert HistoryBuffer._statistics_methods == statistics
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    if layout != "tar" and name in SHOULD_NAME:
        assert caught.type is RefusedCheckpointError
        assert SHOULD_NAME[name] in str(caught.value)


@pytest.mark.parametrize("name", ["os.system", "eval", "nested_pickle", "numpy_runstring"])
def test_the_canary_works(tmp_path, name):
    # With Python's own reader the same bytes do execute: the test above can fail.
    import pickle
    import time

    pickle.loads(PICKLES[name](tmp_path / "canary"))
    deadline = time.monotonic() + 10
    while not (tmp_path / "canary").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "canary").exists()


def test_all_offending_names_are_listed(tmp_path, any_torch):
    pickled = dumps({"a": Call(eval, "1"), "b": Call(exec, "1"), "c": Call(open, "f")})
    with pytest.raises(RefusedCheckpointError, match=r"(?=.*\.eval\b)(?=.*\.exec\b).*\.open\b"):
        safe_load(as_zip(tmp_path / "a.pth", pickled))


def test_names_cannot_steer_the_terminal(tmp_path, any_torch):
    pickled = by_opcodes(("GLOBAL", "os", "a\x1b[31m\rb"))
    with pytest.raises(RefusedCheckpointError, match=r"os.a \[31m b,") as caught:
        safe_load(as_zip(tmp_path / "a.pth", pickled))
    assert str(caught.value).isprintable()


def test_statistics_of_the_file_are_ignored(tmp_path, any_torch):
    buffer = history([1.0, 3.0])
    buffer.__dict__["_statistics_methods"] = {"mean": HistoryBuffer.max}
    torch.save(buffer, tmp_path / "a.pth")
    loaded = safe_load(tmp_path / "a.pth")
    assert loaded.statistics("mean") == 2
    assert HistoryBuffer._statistics_methods["mean"] is HistoryBuffer.mean


def test_allow_list_is_scoped(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(history([1.0]), tmp_path / "a.pth")
    safe_load(tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        safe_load(as_zip(tmp_path / "b.pth", dumps(Call(eval, "1"))))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="getattr|HistoryBuffer"):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_getattr_stays_restricted_for_who_followed_the_usual_advice(tmp_path):
    pickled = PICKLES["getattr_globals"](tmp_path / "canary")
    with (
        torch.serialization.safe_globals([getattr, HistoryBuffer]),
        pytest.raises(RefusedCheckpointError, match="getattr"),
    ):
        safe_load(as_zip(tmp_path / "a.pth", pickled))


class Allowed:
    """A user's own class."""


def test_what_the_user_allowed_stays_allowed(tmp_path):
    torch.save(Allowed(), tmp_path / "a.pth")
    with pytest.raises(RefusedCheckpointError, match="Allowed"):
        safe_load(tmp_path / "a.pth")
    with torch.serialization.safe_globals([Allowed]):
        assert type(safe_load(tmp_path / "a.pth")) is Allowed


def test_weights_only_is_never_given_up(tmp_path, monkeypatch):
    seen = []
    load = torch.load

    def spy(*args, **kwargs):
        seen.append(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    torch.save(training_checkpoint(), tmp_path / "a.pth")
    safe_load(tmp_path / "a.pth")
    # It refuses all of them before.
    monkeypatch.setattr(READER, "read_through", lambda *args: None)
    for name, pickled in PICKLES.items():
        with pytest.raises(CheckpointError):
            safe_load(as_zip(tmp_path / f"{name}.pth", pickled(tmp_path / "canary")))
    assert len(seen) == 1 + len(PICKLES)
    assert all(kwargs["weights_only"] is True for kwargs in seen)
    assert not any("pickle_module" in kwargs for kwargs in seen)


def test_torchscript_is_refused(tmp_path, any_torch):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", dumps({}))
        archive.writestr("archive/constants.pkl", dumps(()))
        archive.writestr("archive/version", "3\n")
    with pytest.raises(RefusedCheckpointError, match="TorchScript"):
        safe_load(tmp_path / "a.pt")


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no.pth does not exist: check the path"):
        safe_load(tmp_path / "no.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        safe_load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"\n\n  <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"not a checkpoint at all", "no checkpoint"),
        (b"\x80\x02}q\x00.", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80", "no checkpoint|damaged"),
        (b"PK\x03\x04" + b"\0" * 100, "truncated or damaged"),
        ((10**6).to_bytes(8, "little") + b'{"a":', "truncated safetensors"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, any_torch, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=message) as caught:
        safe_load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated_file(tmp_path, any_torch, legacy, share):
    path = tmp_path / "a.pth"
    torch.save(training_checkpoint(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        safe_load(path)


def test_archive_with_a_broken_name(tmp_path, any_torch):
    as_zip(tmp_path / "a.pth", dumps({}))
    content = (tmp_path / "a.pth").read_bytes().replace(b"archive/version", b"archive/\xffersion")
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="truncated or damaged"):
        safe_load(tmp_path / "a.pth")


def test_archive_that_is_no_checkpoint(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    with pytest.raises(DamagedCheckpointError):
        safe_load(tmp_path / "a.npz")


def test_deep_nesting_is_no_crash(tmp_path, any_torch):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    for layout in (as_zip, as_legacy):
        with pytest.raises(CheckpointError):
            safe_load(layout(tmp_path / "a.pth", deep))


def write_safetensors(path, value):
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + np.float32(value).tobytes())


def test_safetensors(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", 2)
    try:
        import safetensors  # noqa: F401
    except ImportError:
        with pytest.raises(CheckpointError, match="pip install safetensors"):
            safe_load(tmp_path / "a.safetensors")
    else:
        assert safe_load(tmp_path / "a.safetensors")["a"].tolist() == [2.0]


class TinyModel(BaseModel):
    """The least that a Runner trains."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        return {"loss": self.linear(inputs).square().mean()}


def make_runner(work_dir, max_iters, **kwargs):
    return Runner(
        model=TinyModel(),
        work_dir=str(work_dir),
        train_dataloader={
            "dataset": [torch.ones(2) * i for i in range(8)],
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": lambda data: {"inputs": torch.stack(data)},
        },
        train_cfg={"by_epoch": False, "max_iters": max_iters},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler=[{"type": "CosineAnnealingLR", "by_epoch": False, "T_max": 4, "end": 4}],
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}},
        experiment_name=f"{work_dir}_{max_iters}".replace("/", "_"),
        log_level="ERROR",
        randomness={"seed": 0},
        **kwargs,
    )


def test_runner_resumes_what_it_saved(tmp_path, any_torch):
    work_dir = tmp_path / "work"
    first = make_runner(work_dir, 2)
    first.train()
    checkpoint = work_dir / "iter_2.pth"
    loaded = safe_load(checkpoint)
    assert {"meta", "state_dict", "optimizer", "param_schedulers", "message_hub"} <= set(loaded)

    second = make_runner(work_dir, 4, resume=True)
    second.train()
    before, after = first.message_hub.log_scalars, second.message_hub.log_scalars
    assert {"train/loss", "train/lr"} <= set(before)
    for name in ("train/loss", "train/lr"):
        assert type(after[name]) is HistoryBuffer
        assert len(before[name].data[0]) == 2 and len(after[name].data[0]) == 4
        assert after[name].data[0][:2].tolist() == before[name].data[0].tolist()
        assert after[name].data[1][:2].tolist() == before[name].data[1].tolist()

    whole = make_runner(tmp_path / "whole", 4)
    whole.train()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key


def test_links_in_the_cache_are_neither_written_through_nor_trusted(tmp_path, monkeypatch):
    """A symbolic link whose file has another SHA-256 is replaced; hard links lose nothing."""
    good, other, cache = tmp_path / "good.pth", tmp_path / "other.pth", tmp_path / "cache"
    torch.save({"a": torch.ones(2)}, good)
    torch.save({"a": torch.zeros(2)}, other)
    before = other.read_bytes()
    sha256 = hashlib.sha256(good.read_bytes()).hexdigest()
    cache.mkdir()
    (cache / "a.pth").symlink_to(other)
    monkeypatch.setattr(download, "urlopen", lambda *_, **__: Response(good.read_bytes()))
    url = "https://host/a.pth"
    assert download.load_url(url, cache_dir=cache, sha256=sha256)["a"].tolist() == [1, 1]
    assert not (cache / "a.pth").is_symlink()
    (cache / "a.pth").unlink()
    (cache / "a.pth").write_bytes(b"damaged")
    (tmp_path / "hard").hardlink_to(cache / "a.pth")
    assert download.load_url(url, cache_dir=cache, sha256=sha256)["a"].tolist() == [1, 1]
    assert (tmp_path / "hard").read_bytes() == b"damaged"
    (cache / "b.pth").symlink_to(tmp_path / "nothing")
    assert download.load_url("https://host/b.pth", cache_dir=cache)["a"].tolist() == [1, 1]
    assert other.read_bytes() == before and not (tmp_path / "nothing").exists()


class Response(io.BytesIO):
    """What urlopen returns."""

    headers: dict = {}


@pytest.mark.parametrize("mmap", [False, True])
def test_file_that_is_replaced_while_it_is_read(tmp_path, monkeypatch, mmap):
    path, hostile = tmp_path / "a.pth", as_zip(tmp_path / "b.pth", dumps({"a": "other"}))
    torch.save({"a": torch.ones(2)}, path)
    check = READER.read_through

    def check_and_replace(*args):
        check(*args)
        hostile.replace(path)

    monkeypatch.setattr(READER, "read_through", check_and_replace)
    assert safe_load(path, mmap=mmap)["a"].tolist() == [1, 1]
    assert not hostile.exists()
