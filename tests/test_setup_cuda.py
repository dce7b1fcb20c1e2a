"""What the set-up tells mmcv's CUDA build: architectures, the toolkit's folder, headers."""

import os
from types import SimpleNamespace

import pytest
from setup_helpers import executable

from envsetup import cuda_toolkit


@pytest.mark.parametrize(
    ("given", "cards", "expected"),
    [
        (None, (), "7.5;8.0;9.0+PTX"),
        (None, ("8.6", "9.0"), "8.6;9.0"),
        ("8.0;9.0", ("8.6",), "8.0;9.0"),
    ],
)
def test_architectures_are_the_users_or_the_cards_or_a_default(monkeypatch, given, cards, expected):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if given:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert cuda_toolkit.arch_list(cards) == expected


def write_nvcc(folder, says=""):
    """Write a script in the place of nvcc."""
    folder.mkdir(parents=True, exist_ok=True)
    return executable(folder / "nvcc", f"echo '{says}' >&2")


def test_nvcc_is_asked_for_its_folder(tmp_path):
    toolkit = tmp_path / "cuda-13.0"
    wrapper = write_nvcc(tmp_path / "local/bin", f"#$ _HERE_={toolkit}/bin")
    assert cuda_toolkit.home_of(str(wrapper)) == toolkit


def test_a_link_to_an_nvcc_that_does_not_tell_is_followed(tmp_path):
    nvcc = write_nvcc(tmp_path / "cuda/bin")
    link = tmp_path / "nvcc"
    link.symlink_to(nvcc)
    assert cuda_toolkit.home_of(str(link)) == tmp_path / "cuda"


@pytest.mark.parametrize("whole", [True, False])
def test_headers_that_the_toolkit_lacks_are_torchs(monkeypatch, tmp_path, whole):
    nvcc = write_nvcc(tmp_path / "cuda/bin")
    include = tmp_path / "cuda/include"
    include.mkdir()
    if whole:
        (include / "cusparse.h").touch()
    headers = tmp_path / "site/nvidia/cu13/include"
    headers.mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{nvcc.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    found = cuda_toolkit.build_variables(SimpleNamespace(site=tmp_path / "site"), "13.0", ("9.0",))
    expected = {
        "FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": "9.0",
        "CUDA_HOME": str(tmp_path / "cuda"),
    }
    assert found == expected | ({} if whole else {"CUDA_INC_PATH": str(headers)})
