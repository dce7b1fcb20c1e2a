"""hf:// through the real huggingface_hub, against a small hub on this machine."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from test_convert import classifier

from pvt_mm.checkpoints.key_mapping import to_layout
from pvt_mm.checkpoints.layouts import LAYOUTS

COMMIT = "1" * 40
LOAD = """if 1:
    import pathlib, sys
    from mmengine.runner.checkpoint import CheckpointLoader
    import pvt_mm
    for action in sys.argv[2:]:
        if action != "load":  # spoil the file of that name
            path = next(pathlib.Path(sys.argv[1]).rglob(action))
            path.write_bytes(path.read_bytes()[:100])
        else:
            state = CheckpointLoader.load_checkpoint(%r, logger="silent")
            print("loaded", len(state), float(state["stages.3.norm.weight"].sum()), flush=True)
"""


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's interface that a download of a public file needs."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.server.requests.append((self.command, self.path))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def load(hub, address, tmp_path, *actions):
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env.update(HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HUB_OFFLINE="0")
    env.update(TORCH_HOME=str(tmp_path / "torch"), HF_HOME=str(tmp_path / "hf"), HF_TOKEN="")
    env.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    command = [sys.executable, "-W", "ignore", "-c", LOAD % address, str(tmp_path / "torch")]
    done = subprocess.run([*command, *actions], env=env, capture_output=True, text=True)
    return [s for s in done.stdout.splitlines() if s.startswith("loaded")], done.stderr


@pytest.mark.parametrize(
    ("address", "path", "file"),
    [
        ("hf://org/net@v1", "/org/net/resolve/v1/model.safetensors", "org/net/v1"),
        pytest.param(
            "timm://pvt_v2_b0",
            "/timm/pvt_v2_b0.in1k/resolve/main/model.safetensors",
            "timm/pvt_v2_b0.in1k/main",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_real_client(hub, tmp_path, address, path, file):
    state = to_layout(classifier(2), LAYOUTS[1])[0]
    save_file(state, tmp_path / "a.safetensors")
    hub.files[path] = (tmp_path / "a.safetensors").read_bytes()
    wanted = f"loaded {len(state)} {float(classifier(2)['norm4.weight'].sum())}"
    lines, errors = load(hub, address, tmp_path, "load", "load", "model.safetensors", "load")
    assert lines == [wanted] * 3, errors
    assert hub.requests.count(("GET", path)) == 2  # at first, and for the spoilt file
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "hf" / file / "model.safetensors"
    assert cached.read_bytes() == hub.files[path]


def test_pickle_where_there_are_no_safetensors(hub, tmp_path):
    state = to_layout(classifier(2), LAYOUTS[1])[0]
    torch.save(state, tmp_path / "a.bin")
    hub.files["/o/n/resolve/main/pytorch_model.bin"] = (tmp_path / "a.bin").read_bytes()
    lines, errors = load(hub, "hf://o/n", tmp_path, "load")
    assert len(lines) == 1 and lines[0].startswith(f"loaded {len(state)} "), errors


def test_absent_model_is_one_error(hub, tmp_path):
    lines, errors = load(hub, "hf://o/nothing", tmp_path, "load")
    assert not lines and "hf://o/nothing" in errors.splitlines()[-1]
