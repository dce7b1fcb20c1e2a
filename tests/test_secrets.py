"""Nothing that a run writes or prints holds a secret of its environment or of a URL."""

import os
from pathlib import Path
from urllib.error import URLError

import pytest
from forked import run_forked

from pvt_mm.checkpoints import DownloadError, download
from pvt_mm.data.demo import DemoSpec, make_demo_data
from pvt_mm.wording import public

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_demo.py")
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "HF_TOKEN": "canary-hf",
    "MY_TOKEN": "canary-mine",
    "WANDB_API_KEY": "canary-wandb",
    "http_proxy": "http://user:canary-proxy@127.0.0.1:9",
    "https_proxy": "http://user:canary-proxy@127.0.0.1:9",
}
SMALL = {
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pass@host/a.pth", "https://***@host/a.pth"),
        ("https://token@host:8080/a.pth", "https://***@host:8080/a.pth"),
        ("https://us:er:p@ss@host/a.pth", "https://***@host/a.pth"),
        ("https://host/a.pth?token=1&x=2", "https://host/a.pth?***"),
        ("https://host/a@b.pth", "https://host/a@b.pth"),
        ("hf://org/name@main/file", "hf://org/name@main/file"),
        ("user:pass@host?token", "user:pass@host?token"),
        ("/a/b?c@d.pth", "/a/b?c@d.pth"),
    ],
)
def test_public_address(address, shown):
    assert public(address) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://user:canary@127.0.0.1:9/a.pth",
        "http://user:canary@127.0.0.1/a.pth",
        "http://user:can@nary@[::1/a.pth",
        "http://127.0.0.1:9/a.pth?token=canary",
        "http://127.0.0.1:9/?token=canary",
        "http://user:canary@127.0.0.1:port/a.pth",
    ],
)
def test_download_errors_hide_passwords(tmp_path, monkeypatch, capfd, url):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError) as caught:
        download.load_url(url, cache_dir=tmp_path)
    captured = capfd.readouterr()
    said = str(caught.value) + captured.out + captured.err
    assert "canary" not in said and "can@" not in said and "nary" not in said
    assert caught.value.__cause__ is None  # a traceback would show it


def test_a_server_cannot_steer_the_terminal(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("\x1b[31mno\r\nerror: all is well" + "x" * 1000)

    monkeypatch.setattr(download, "urlopen", refuse)
    with pytest.raises(DownloadError) as caught:
        download.load_url("https://host/a.pth", cache_dir=tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def run(folder, tool, *argv):
    environment = {**os.environ, **SECRETS, "DEMO_ROOT": str(folder / "data")}
    environment["TORCH_HOME"] = str(folder / "cache")
    return run_forked(tool, argv, folder, environment)


@pytest.mark.slow
def test_a_run_writes_no_secret(tmp_path):
    make_demo_data(tmp_path / "data", DemoSpec(train=2, val=1, size=64))
    options = ["--cfg-options", *(f"{key}={value}" for key, value in SMALL.items())]
    code, printed = run(tmp_path, "training.train", CONFIG, "--work-dir", "out", *options)
    assert code == 0, printed[-3000:]
    flags = ["--work-dir", "out", "--out", "a.pkl"]
    code, tested = run(tmp_path, "training.test", CONFIG, "out/epoch_1.pth", *flags, *options)
    assert code == 0, tested[-3000:]
    url = "https://user:canary-url@localhost:9/a.pth?token=canary-query"
    code, failed = run(tmp_path, "conversion.tool", url, "b.pth", "--to", "timm")
    assert code == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".pth", ".log", ".py", ".json", ".pkl"} <= {path.suffix for path in files}
    texts = [printed.encode(), tested.encode(), *(path.read_bytes() for path in files)]
    assert not any(b"canary" in text for text in texts)
    errors = [line for line in failed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "canary" not in errors[0]
