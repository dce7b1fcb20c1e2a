"""Weights of the Hugging Face hub and of timm, from a hub that is a folder; no network."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from test_convert import ARCH, classifier

from pvt_mm import PVTv2
from pvt_mm.checkpoints import CheckpointError, DownloadError, load_pretrained
from pvt_mm.checkpoints.key_mapping import to_layout
from pvt_mm.checkpoints.layouts import LAYOUTS


class Hub(ModuleType):
    """The four functions of huggingface_hub that are used, on a dict of files."""

    def __init__(self):
        super().__init__("huggingface_hub")
        self.files, self.fetched, self.error, self.etag = {}, [], None, None

    def _address(self, repo, name, revision):
        if self.error:
            raise self.error
        return f"{repo}@{revision or 'main'}/{name}"

    def file_exists(self, repo_id, filename, *, revision=None):
        return self._address(repo_id, filename, revision) in self.files

    def hf_hub_url(self, repo_id, filename, *, revision=None):
        return self._address(repo_id, filename, revision)

    def get_hf_file_metadata(self, url):
        return SimpleNamespace(etag=self.etag or hashlib.sha256(self.files[url]).hexdigest())

    def hf_hub_download(self, repo_id, filename, *, revision, local_dir, force_download):
        address = self._address(repo_id, filename, revision)
        self.fetched.append(address)
        path = Path(local_dir, filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[address])
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


@pytest.fixture
def pickled(tmp_path):
    """A classifier under timm's names, as torch writes it."""
    torch.save(to_layout(classifier(2), LAYOUTS[1])[0], tmp_path / "timm.bin")
    return (tmp_path / "timm.bin").read_bytes()


@pytest.mark.parametrize(
    ("address", "file", "folder"),
    [
        ("hf://org/net", "org/net@main/pytorch_model.bin", "org/net/main"),
        ("hf://org/net@v1.0", "org/net@v1.0/pytorch_model.bin", "org/net/v1.0"),
        ("hf://org/net/a/b.pth", "org/net@main/a/b.pth", "org/net/main/a"),
        ("hf://org/net@abc/b.pth", "org/net@abc/b.pth", "org/net/abc"),
        ("timm://pvt_v2_b0", "timm/pvt_v2_b0.in1k@main/pytorch_model.bin", "timm/pvt_v2_b0.in1k"),
        ("timm://pvt_v2_b2_li.in1k", "timm/pvt_v2_b2_li.in1k@main/pytorch_model.bin", "timm"),
    ],
)
def test_downloaded_once_into_the_common_cache(hub, pickled, tmp_path, address, file, folder):
    hub.files = {file: pickled}
    for _ in range(2):
        backbone = PVTv2(ARCH, init_cfg={"type": "Pretrained", "checkpoint": address})
        backbone.init_weights()
        assert torch.equal(backbone.norm4.weight, classifier(2)["norm4.weight"])
    assert hub.fetched == [file]
    assert (tmp_path / "hub" / "checkpoints" / "hf" / folder).is_dir()


def test_safetensors_come_first(hub, pickled, tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    save(to_layout(classifier(2), LAYOUTS[3])[0], tmp_path / "a.safetensors")
    hub.files["o/n@main/model.safetensors"] = (tmp_path / "a.safetensors").read_bytes()
    hub.files["o/n@main/pytorch_model.bin"] = pickled
    load_pretrained(PVTv2(ARCH), "hf://o/n")
    assert hub.fetched == ["o/n@main/model.safetensors"]


def test_damaged_file_is_fetched_again(hub, pickled, tmp_path):
    hub.files["o/n@main/pytorch_model.bin"] = pickled
    cached = tmp_path / "hub" / "checkpoints" / "hf" / "o" / "n" / "main" / "pytorch_model.bin"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(pickled[: len(pickled) // 2])
    load_pretrained(PVTv2(ARCH), "hf://o/n")
    assert hub.fetched == ["o/n@main/pytorch_model.bin"] and cached.read_bytes() == pickled


def test_a_download_with_another_hash_is_thrown_away(hub, pickled, tmp_path):
    hub.files["o/n@main/pytorch_model.bin"], hub.etag = pickled, "0" * 64
    with pytest.raises(DownloadError, match="another SHA-256"):
        CheckpointLoader.load_checkpoint("hf://o/n")
    assert not list((tmp_path / "hub").rglob("*.bin"))


def test_offline_says_which_file_to_put_where(hub, pickled, tmp_path):
    hub.error = OSError("network is unreachable\nmore")
    with pytest.raises(DownloadError) as caught:
        load_pretrained(PVTv2(ARCH), "timm://pvt_v2_b1")
    target = tmp_path / "hub/checkpoints/hf/timm/pvt_v2_b1.in1k/main/model.safetensors"
    assert str(caught.value).startswith(
        "cannot download hf://timm/pvt_v2_b1.in1k/model.safetensors (network is unreachable); "
        f"fetch it by other means and save it as {target}"
    )
    # Put there, it needs neither the network nor huggingface_hub.
    target.parent.mkdir(parents=True)
    target.with_name("pytorch_model.bin").write_bytes(pickled)
    load_pretrained(PVTv2(ARCH), "timm://pvt_v2_b1")


def test_without_huggingface_hub(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub safetensors; or fetch"):
        load_pretrained(PVTv2(ARCH), "hf://org/net")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("timm://pvt_small", "unknown weights timm://pvt_small: .*known are pvt_v2_b0"),
        ("timm://resnet50", "unknown weights timm://resnet50"),
        ("hf://pvt", "expected hf://ORG/NAME"),
        ("hf://../..", "expected hf://ORG/NAME|cannot download"),
        ("hf://org/net/../../x.pth", "expected hf://ORG/NAME"),
        ("hf://org/empty", "has none of model.safetensors, pytorch_model.bin"),
    ],
)
def test_addresses_that_lead_nowhere(hub, address, message):
    with pytest.raises(CheckpointError, match=message):
        CheckpointLoader.load_checkpoint(address)
    assert hub.fetched == []
