"""Weights into a backbone, from every place, all of them or none."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from pvt_mm import PVT, PVTv2, archs
from pvt_mm.archs import ARCHS
from pvt_mm.checkpoints import (
    CheckpointError,
    DamagedCheckpointError,
    DownloadError,
    load_pretrained,
    map_state_dict,
)
from pvt_mm.checkpoints.key_mapping import recognise_arch

ROOT = Path(__file__).resolve().parents[1]
OFFICIAL = json.loads((Path(__file__).parent / "data" / "official_state_dicts.json").read_text())
SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}


def official_state(name, fill=0.5):
    """A state dict with the official release's keys and shapes, that takes no memory."""
    shapes = OFFICIAL[name]["classification"]
    return {key: torch.tensor(fill).expand(shape) for key, shape in shapes.items()}


def build(name, **kwargs):
    kind, _, size = name.removeprefix("pvt_").partition("v2_")
    return PVTv2(size, **kwargs) if size else PVT(kind, **kwargs)


@pytest.fixture
def log(monkeypatch):
    """The lines that load_pretrained logs."""
    lines = []
    monkeypatch.setattr(
        "pvt_mm.checkpoints.pretrained.print_log", lambda line, **kwargs: lines.append(line)
    )
    return lines


@pytest.fixture
def small(tmp_path):
    """A small v1 backbone, and its weights in a file."""
    torch.manual_seed(0)
    backbone = PVT(SMALL)
    backbone.init_weights()
    torch.save(backbone.state_dict(), tmp_path / "small.pth")
    return backbone, str(tmp_path / "small.pth")


def changed(small, tmp_path, change):
    """Write the small backbone's weights with a change."""
    state = dict(small[0].state_dict())
    result = change(state)
    torch.save(state if result is None else result, tmp_path / "changed.pth")
    return str(tmp_path / "changed.pth")


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_release_loads_as_it_is(tmp_path, log, name):
    torch.save(OrderedDict(official_state(name)), tmp_path / "a.pth")
    backbone = build(name, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth")})
    backbone.init_weights()
    assert all((value == 0.5).all() for value in backbone.state_dict().values())
    unused = "cls_token, head.bias, head.weight, norm.bias, norm.weight"
    if OFFICIAL[name]["backbone_only_absent"] == ["head.bias", "head.weight"]:
        unused = "head.bias, head.weight"
    count = len(OFFICIAL[name]["classification"]) - unused.count(",") - 1
    assert log == [
        f"{type(backbone).__name__}: loaded all {count} tensors from {tmp_path / 'a.pth'}"
        f"; unused: {unused}"
    ]


@pytest.mark.parametrize("name", OFFICIAL)
def test_model_is_recognised(name):
    assert recognise_arch(official_state(name)) == name


def test_there_is_an_alias_for_each_release():
    assert set(ARCHS) == set(OFFICIAL)


def test_nothing_unused_says_nothing(small, log):
    backbone = PVT(SMALL)
    load_pretrained(backbone, small[1])
    assert equal(backbone, small[0])
    assert log == [f"PVT: loaded all 88 tensors from {small[1]}"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "meta": {"epoch": 1}},
        lambda state: {"model": state, "optimizer": {}, "epoch": 3},
        lambda state: {"model_ema": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"backbone.{key}": value for key, value in state.items()},
        lambda state: {
            "state_dict": {f"module.backbone.{key}": value for key, value in state.items()}
        },
    ],
)
def test_wrappers_and_prefixes(small, tmp_path, log, wrap):
    backbone = PVT(SMALL)
    load_pretrained(backbone, changed(small, tmp_path, wrap))
    assert equal(backbone, small[0])


def test_backbone_of_a_detector(small, tmp_path, log):
    def detector(state):
        state = {f"backbone.{key}": value for key, value in state.items()}
        state |= {f"neck.{i}.weight": torch.zeros(1) for i in range(3)}
        return {"state_dict": state | {"bbox_head.bias": torch.zeros(1)}}

    backbone = PVT(SMALL)
    load_pretrained(backbone, changed(small, tmp_path, detector))
    assert equal(backbone, small[0])
    assert log[0].endswith("unused: bbox_head.bias, neck.* (3)")


def test_prefix_of_the_init_cfg(small, tmp_path, log):
    path = changed(small, tmp_path, lambda state: {f"a.b.{k}": v for k, v in state.items()})
    init_cfg = {"type": "Pretrained", "checkpoint": path, "prefix": "a.b"}
    backbone = PVT(SMALL, init_cfg=init_cfg)
    backbone.init_weights()
    assert equal(backbone, small[0])
    with pytest.raises(CheckpointError, match="no key begins with x., but for example a.b."):
        load_pretrained(backbone, path, prefix="x.")


def test_stages_that_are_not_built(small, log):
    backbone = PVT(SMALL, out_indices=(0, 1))
    load_pretrained(backbone, small[1])
    assert torch.equal(backbone.pos_embed2, small[0].pos_embed2)
    assert "block4.* " in log[0] and "pos_embed3" in log[0] and "block2" not in log[0]


def test_missing_and_unexpected_keys_are_listed(small, tmp_path):
    def change(state):
        del state["block1.0.attn.q.weight"], state["patch_embed2.norm.bias"]
        state["block1.0.gamma"] = torch.ones(1)

    backbone = PVT(SMALL)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    path = changed(small, tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(backbone, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: does not fit this PVT: ")
    assert "missing (2): block1.0.attn.q.weight, patch_embed2.norm.bias" in message
    assert "unexpected (1): block1.0.gamma" in message
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_wrong_shapes_are_listed_and_the_model_is_recognised(tmp_path):
    torch.save(official_state("pvt_v2_b1"), tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(PVTv2("b0"), str(tmp_path / "a.pth"))
    message = str(caught.value)
    assert "does not fit pvt_v2_b0 (the file looks like pvt_v2_b1): wrong shape (176): " in message
    assert "patch_embed1.proj.weight (64, 3, 7, 7), expected (32, 3, 7, 7)" in message
    assert message.endswith(", ...") and len(message) < 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"conv1.weight": torch.ones(1), "bn1.weight": torch.ones(1)},
            "holds no PVT.*conv1",
        ),
        (lambda s: [1, 2], "must hold a state dict, found list"),
        (lambda s: {}, "must hold a state dict, found an empty dict"),
        (lambda s: {"state_dict": {}}, "must hold a state dict, found an empty dict"),
        (lambda s: {1: torch.ones(1)}, "keys are no names"),
        (lambda s: s.update({"patch_embed1.proj.bias": 3}), "must be a tensor, found int"),
        (
            lambda s: s.update({"patch_embed1.proj.bias": torch.ones(8, dtype=torch.long)}),
            "not floating point .1.: patch_embed1.proj.bias torch.int64",
        ),
        (
            lambda s: s.update({"patch_embed1.proj.bias": torch.full((8,), float("nan"))}),
            "not finite .1.: patch_embed1.proj.bias",
        ),
    ],
)
def test_what_is_no_usable_state(small, tmp_path, change, message):
    path = changed(small, tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained(PVT(SMALL), path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_half_precision_weights_load(small, tmp_path, log):
    path = changed(small, tmp_path, lambda state: {k: v.half() for k, v in state.items()})
    backbone = PVT(SMALL)
    load_pretrained(backbone, path)
    assert backbone.pos_embed1.dtype is torch.float32
    assert torch.equal(backbone.pos_embed1, small[0].pos_embed1.half().float())


@pytest.mark.parametrize("size", [64, (96, 160)])
def test_pos_embed_of_another_grid_is_resized(small, log, size):
    source, path = small
    backbone = PVT(SMALL, pretrain_img_size=size)
    load_pretrained(backbone, path)
    height, width = (size, size) if isinstance(size, int) else size
    for stage, (stride, entries) in enumerate([(4, 0), (8, 0), (16, 0), (32, 1)], 1):
        name, side = f"pos_embed{stage}", 224 // stride
        old, new = getattr(source, name)[0], getattr(backbone, name)[0]
        grid = (height // stride, width // stride)
        as_map = old[entries:].T.reshape(1, -1, side, side)
        wanted = torch.nn.functional.interpolate(as_map, grid, mode="bilinear")[0].flatten(1).T
        torch.testing.assert_close(new[entries:], wanted)
        assert torch.equal(new[:entries], old[:entries])
        assert f"{name} resized from {side}x{side} to {grid[0]}x{grid[1]}" in log[0]


def test_mapping_leaves_its_input_alone():
    state = official_state("pvt_tiny")
    mapped, unused = map_state_dict({"model": state})
    assert sorted(unused) == OFFICIAL["pvt_tiny"]["backbone_only_absent"]
    assert len(state) == len(mapped) + len(unused)


# Aliases and URLs


class Server(ThreadingHTTPServer):
    """Serves ``files`` on localhost; counts the requests; ``cut`` ends answers early."""

    def __init__(self):
        self.files, self.requests, self.cut = {}, [], 0
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path[1:])
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cached(tmp_path):
    return tmp_path / "hub" / "checkpoints" / "small.pth"


def test_url_is_downloaded_once(small, server, cached, log):
    server.files["small.pth"] = Path(small[1]).read_bytes()
    for _ in range(2):
        backbone = PVT(SMALL)
        load_pretrained(backbone, server.url("small.pth"))
        assert equal(backbone, small[0])
    assert server.requests == ["/small.pth"]
    assert [path.name for path in cached.parent.iterdir()] == ["small.pth"]
    assert cached.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", [b"", b"<html>", "half"])
def test_broken_file_in_the_cache_is_fetched_again(small, server, cached, log, broken):
    content = Path(small[1]).read_bytes()
    server.files["small.pth"] = content
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content[: len(content) // 2] if broken == "half" else broken)
    load_pretrained(PVT(SMALL), server.url("small.pth"))
    assert server.requests == ["/small.pth"]
    assert cached.read_bytes() == content


def test_hash_in_the_name_is_compared(small, server, cached, log):
    content = Path(small[1]).read_bytes()
    right = f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files = {right: content, "small-01234567.pth": content}
    load_pretrained(PVT(SMALL), server.url(right))
    assert server.requests == [f"/{right}"]
    with pytest.raises(DownloadError, match="SHA-256 does not begin with 01234567; .*kept as"):
        load_pretrained(PVT(SMALL), server.url("small-01234567.pth"))
    assert len(server.requests) == 3  # fetched twice
    load_pretrained(PVT(SMALL), server.url("small-01234567.pth"))  # who trusts it has it


@pytest.mark.parametrize("known", ["right", "01234567"])
def test_known_hash_of_a_release_is_compared(small, server, cached, log, monkeypatch, known):
    content = Path(small[1]).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest() if known == "right" else known
    server.files = {"pvt_v2_b0.pth": content}
    monkeypatch.setattr(archs, "RELEASE_URL", server.url(""))
    monkeypatch.setitem(ARCHS, "pvt_v2_b0", replace(ARCHS["pvt_v2_b0"], sha256=sha256))
    if known == "right":
        load_pretrained(PVT(SMALL), "pvt://pvt_v2_b0")
        return
    with pytest.raises(DownloadError, match="SHA-256 does not begin with 01234567"):
        load_pretrained(PVT(SMALL), "pvt://pvt_v2_b0")
    assert len(server.requests) == 2


def test_loading_maps_the_file_and_copies_it(small, tmp_path, monkeypatch, log):
    seen, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: seen.append(k) or load(*a, **k))
    backbone = PVT(SMALL)
    parameters = dict(backbone.named_parameters())
    load_pretrained(backbone, small[1])
    assert seen[0]["mmap"] is True and seen[0]["weights_only"] is True
    assert all(parameters[key] is value for key, value in backbone.named_parameters())
    Path(small[1]).write_bytes(b"")  # nothing of the file is needed any more
    assert equal(backbone, small[0])
    torch.save(small[0].state_dict(), small[1])
    CheckpointLoader.load_checkpoint(small[1])  # what a Runner keeps may outlive the file
    assert "mmap" not in seen[1]


def test_web_page_instead_of_a_file_is_not_kept(server, cached):
    server.files["small.pth"] = b"<html>please sign in</html>"
    with pytest.raises(DamagedCheckpointError, match="web page.*downloaded from http") as caught:
        load_pretrained(PVT(SMALL), server.url("small.pth"))
    assert str(cached) in str(caught.value)
    assert not cached.exists()


def test_lost_connection_leaves_no_partial_file(small, server, cached):
    server.files["small.pth"] = Path(small[1]).read_bytes()
    server.cut = 1000
    with pytest.raises(DownloadError, match="cannot download"):
        load_pretrained(PVT(SMALL), server.url("small.pth"))
    assert list(cached.parent.iterdir()) == []


def test_hostile_download_is_fetched_once_and_refused(server, tmp_path):
    from hostile import PICKLES, as_zip

    canary = tmp_path / "canary"
    path = as_zip(tmp_path / "a.pth", PICKLES["os.system"](canary))
    server.files["a.pth"] = path.read_bytes()
    with pytest.raises(CheckpointError, match="refused"):
        CheckpointLoader.load_checkpoint(server.url("a.pth"))
    assert server.requests == ["/a.pth"] and not canary.exists()


def test_impossible_download_says_what_to_do(server, cached):
    with pytest.raises(DownloadError) as caught:
        load_pretrained(PVT(SMALL), server.url("small.pth"))
    message = str(caught.value)
    assert f"cannot download {server.url('small.pth')} (HTTP Error 404" in message
    assert f"save it as {cached}" in message
    assert message.count("--cfg-options model.backbone.init_cfg=None") == 1
    assert "\n" not in message


def test_alias_is_the_official_release(server, monkeypatch, log):
    state = official_state("pvt_v2_b0")
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True)
    torch.save(state, folder / "pvt_v2_b0.pth")
    init_cfg = {"type": "Pretrained", "checkpoint": "pvt://pvt_v2_b0"}
    backbone = PVTv2("b0", init_cfg=init_cfg)
    backbone.init_weights()  # from the cache: nothing was fetched
    assert (backbone.norm4.weight == 0.5).all()
    loaded = CheckpointLoader.load_checkpoint("pvt://pvt_v2_b0")
    assert loaded.keys() == state.keys()


def test_alias_that_cannot_be_fetched(server, monkeypatch):
    def offline(request, timeout):
        raise OSError("network is unreachable")

    monkeypatch.setattr("pvt_mm.checkpoints.download.urlopen", offline)
    with pytest.raises(DownloadError) as caught:
        load_pretrained(PVTv2("b0"), "pvt://pvt_v2_b0")
    assert str(caught.value) == (
        "cannot download https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b0.pth "
        "(network is unreachable); fetch it by other means and save it as "
        f"{torch.hub.get_dir()}/checkpoints/pvt_v2_b0.pth; "
        "to train from scratch instead: --cfg-options model.backbone.init_cfg=None"
    )


def test_unknown_alias_names_the_nearest_and_all(small):
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(small[0], "pvt://pvt_v2_b2li")
    message = str(caught.value)
    assert "unknown weights pvt://pvt_v2_b2li: did you mean pvt://pvt_v2_b2_li?" in message
    assert all(name in message for name in OFFICIAL)


def test_names_of_other_projects_resolve_without_torchvision(server, monkeypatch):
    urls = []
    monkeypatch.setattr(
        "pvt_mm.checkpoints.schemes.load_url",
        lambda url, map_location=None: urls.append(url) or {"backbone.a": 1, "head.b": 2},
    )
    CheckpointLoader.load_checkpoint("torchvision://resnet50")
    CheckpointLoader.load_checkpoint("open-mmlab://resnet50_v1c")
    mmcls = CheckpointLoader.load_checkpoint("mmcls://resnet50")
    assert [url.rsplit("/", 1)[1] for url in urls[:2]] == [
        "resnet50-0676ba61.pth",
        "resnet50_v1c-2cccc1ad.pth",
    ]
    assert mmcls == {"state_dict": {"a": 1}}
    with pytest.raises(CheckpointError, match="did you mean torchvision://resnet50"):
        CheckpointLoader.load_checkpoint("torchvision://resnet5")


def test_init_cfg_none_from_the_command_line(small):
    config = Config({"model": {"backbone": {"arch": "b0", "init_cfg": {"type": "Pretrained"}}}})
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", action=DictAction, nargs="+")
    args = parser.parse_args(["--cfg-options", "model.backbone.init_cfg=None"])
    config.merge_from_dict(args.cfg_options)
    assert config.model.backbone.init_cfg is None
    PVTv2(**config.model.backbone).init_weights()


def test_mmengine_itself_loads_safely(small, tmp_path):
    backbone = PVT(SMALL)
    load_checkpoint(backbone, small[1], strict=True, logger=MMLogger.get_instance("test"))
    assert equal(backbone, small[0])
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(backbone, str(tmp_path / "no.pth"))


TWO_PROCESSES = """
import sys
import time

import torch
import torch.distributed as dist

import pvt_mm
from mmengine.runner.checkpoint import CheckpointLoader

rank, folder, good, bad = int(sys.argv[1]), *sys.argv[2:]
torch.hub.set_dir(folder + "/hub")
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
if rank == 0:
    time.sleep(0.5)  # the other one comes first, and has to wait
print("found", len(CheckpointLoader.load_checkpoint(good)))
try:
    CheckpointLoader.load_checkpoint(bad)
except pvt_mm.checkpoints.DownloadError:
    print("DownloadError, as it should")
"""


def test_one_process_of_a_machine_downloads_and_nobody_waits_for_ever(small, server, tmp_path):
    server.files["small.pth"] = Path(small[1]).read_bytes()
    arguments = [str(tmp_path), server.url("small.pth"), server.url("none.pth")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), *arguments],
            env=os.environ | {"LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output = process.communicate(timeout=300)[0].split("\n")
        assert "found 88" in output and "DownloadError, as it should" in output
    assert server.requests.count("/small.pth") == 1
