"""What the set-up tells mmcv's CUDA build: architectures, the toolkit's folder, headers."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from setup_helpers import executable

from envsetup import checks, cuda_toolkit
from envsetup.venv import SetupError


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


def write_nvcc(folder, says="", release="13.0"):
    """Write a script in the place of nvcc."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = f"echo '{says}' >&2; echo 'Cuda compilation tools, release {release}, V{release}.1'"
    return executable(folder / "nvcc", lines)


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


class Packages:
    """An environment whose pip writes what NVIDIA's packages hold."""

    def __init__(self, root, nvcc=True):
        self.build, self.site, self.nvcc = root / "build", root / "site", nvcc
        self.asked = []

    def pip(self, *command):
        self.asked.append(command)
        home = Path(command[command.index("--target") + 1]) / "nvidia" / "cu13"
        for folder in ("bin", "lib"):
            (home / folder).mkdir(parents=True)
        (home / "lib" / "libcudart.so.13").touch()
        if self.nvcc:
            write_nvcc(home / "bin")


@pytest.mark.parametrize("there", [None, "12.4"])
def test_a_toolkit_is_fetched_where_none_fits(monkeypatch, tmp_path, capsys, there):
    nvcc = str(write_nvcc(tmp_path / "old", release=there)) if there else None
    monkeypatch.setattr(checks, "find_nvcc", lambda: nvcc)
    venv = Packages(tmp_path)
    for _ in range(2):  # a build that goes on fetches nothing again
        home = Path(cuda_toolkit.build_variables(venv, "13.0", ("9.0",))["CUDA_HOME"])
    assert len(venv.asked) == 1 and "nvidia-cuda-nvcc==13.0.*" in venv.asked[0]
    assert (home / "lib64" / "libcudart.so").resolve().name == "libcudart.so.13"
    assert venv.build in home.parents and "no nvcc for CUDA 13.0" in capsys.readouterr().out


def test_a_fetch_that_was_cut_off_begins_again(tmp_path):
    venv = Packages(tmp_path, nvcc=False)
    with pytest.raises(SetupError, match="brought no .*bin/nvcc"):
        cuda_toolkit.fetch(venv, "13.0")
    venv.nvcc = True
    assert (cuda_toolkit.fetch(venv, "13.0") / "bin" / "nvcc").is_file()
