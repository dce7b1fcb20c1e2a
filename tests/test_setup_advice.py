"""What a refusal advises on made-up systems: their os-release, their apt, their interpreters."""

from __future__ import annotations

import os
import sys

import pytest
from setup_helpers import executable

from envsetup import advice, checks

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'
UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n'
MINT = "ID=linuxmint\nID_LIKE='ubuntu debian'\n"
FEDORA = 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID=43\n'
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'
ARCH = "NAME=Arch\nID=arch\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes a system: its os-release, and what its apt knows."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("PYENV_ROOT", "XDG_DATA_HOME", "UV_PYTHON_INSTALL_DIR", "CONDA_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(advice.sys, "prefix", str(tmp_path))

    def make(os_release, apt=None):
        (tmp_path / "os-release").write_text(os_release)
        monkeypatch.setattr(advice, "OS_RELEASE", str(tmp_path / "os-release"))
        if apt is not None:
            known = "".join(f"{name}) echo '  Candidate: 1.0';;" for name in apt)
            sources = "echo ' 500 http://mirror/debian trixie/main'" if apt else ":"
            executable(path / "apt-cache", f'case "$2" in "") {sources};; {known} esac')
        return path

    return make


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        (DEBIAN, "Debian/Ubuntu"),
        (UBUNTU, "Debian/Ubuntu"),
        (MINT, "Debian/Ubuntu"),
        (FEDORA, "Fedora"),
        (ROCKY, "Fedora"),
        (ARCH, None),
        ("", None),
    ],
)
def test_the_system_is_told_by_its_os_release(machine, os_release, expected):
    machine(os_release)
    assert advice.system() == expected


def test_a_conda_python_is_advised_by_conda_whatever_the_system(machine, tmp_path):
    machine(DEBIAN, apt=["g++"])
    (tmp_path / "conda-meta").mkdir()
    assert advice.install("compiler", ["3.12"]) == "conda install -c conda-forge cxx-compiler"


@pytest.mark.parametrize("minor", [10, 11, 12, 13, 14])
def test_only_the_python_that_apt_has_is_advised(machine, minor):
    name = f"python3.{minor}"
    machine(DEBIAN, apt=[name, f"{name}-venv", f"{name}-dev"])
    words = advice.python()
    assert f"sudo apt-get install {name} {name}-venv {name}-dev" in words
    assert words.endswith(f"PYTHON={name}")
    others = {f"python3.{other}" for other in range(10, 15)} - {name}
    assert not [other for other in others if other in words]
    assert "dnf" not in words and "conda" not in words


def test_a_python_without_all_of_its_packages_is_not_advised(machine):
    machine(DEBIAN, apt=["python3.11", "python3.11-venv", "g++"])
    words = advice.python()
    assert "apt-get" not in words
    assert "uv python install 3." in words and "conda create" in words


def test_an_apt_without_lists_is_not_asked(machine):
    machine(DEBIAN, apt=[])
    assert advice.install("compiler", ["3.11"]) == "sudo apt-get install g++"
    assert "sudo apt-get install python3.11 " in advice.python()


def test_opencvs_libraries_are_called_as_the_system_calls_them(machine):
    machine(DEBIAN, apt=["libgl1", "libglib2.0-0t64"])
    assert advice.install("opencv", ["3.13"]) == "sudo apt-get install libgl1 libglib2.0-0t64"
    machine(DEBIAN, apt=["libgl1", "libglib2.0-0"])
    assert advice.install("opencv", ["3.11"]) == "sudo apt-get install libgl1 libglib2.0-0"


def test_fedora_and_an_unknown_system(machine):
    machine(FEDORA)
    assert advice.install("headers", ["3.13"]) == "sudo dnf install python3.13-devel"
    machine(ARCH)
    words = advice.install("compiler", ["3.13"])
    assert words == (
        "Debian/Ubuntu: sudo apt-get install g++; Fedora: sudo dnf install gcc-c++; "
        "conda: conda install -c conda-forge cxx-compiler"
    )


def interpreter(path, answer):
    """Write an interpreter that answers the question whether it is suitable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(executable(path, f"echo {answer}"))


@pytest.mark.parametrize(
    "place",
    [
        "bin/python3.12",
        "home/.pyenv/versions/3.12.7/bin/python3.12",
        "home/.local/share/uv/python/cpython-3.12.7-linux-x86_64-gnu/bin/python3.12",
        "home/miniforge3/envs/vision/bin/python3.12",
        "home/miniconda3/bin/python3.12",
    ],
)
def test_another_interpreter_is_found_and_named(machine, tmp_path, place):
    machine(DEBIAN, apt=["python3.13", "python3.13-venv", "python3.13-dev"])
    path = interpreter(tmp_path / place, "3.12")
    assert advice.python().endswith(f"make demo PYTHON={path}")


@pytest.mark.parametrize("variable", ["PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "CONDA_EXE"])
def test_interpreters_in_places_of_the_users_own(machine, tmp_path, monkeypatch, variable):
    machine(FEDORA)
    places = {
        "PYENV_ROOT": ("own", "own/versions/3.10.2/bin/python3.10"),
        "UV_PYTHON_INSTALL_DIR": ("own", "own/cpython-3.10.2-linux/bin/python3.10"),
        "CONDA_EXE": ("own/bin/conda", "own/envs/a/bin/python3.10"),
    }
    setting, place = places[variable]
    path = interpreter(tmp_path / place, "3.10")
    assert advice.other_python() is None
    monkeypatch.setenv(variable, str(tmp_path / setting))
    assert advice.other_python() == path


@pytest.mark.parametrize("answer", ["'no headers'", "3.9", "; exit 1", ">&2 broken"])
def test_an_interpreter_that_could_not_be_used_is_not_named(machine, tmp_path, answer):
    machine(FEDORA)
    interpreter(tmp_path / "bin" / "python3.11", answer)
    assert advice.other_python() is None


def test_the_question_to_an_interpreter_is_answered_by_a_real_one(machine, tmp_path):
    """This one, unless it lacks its headers: then the answer says that."""
    machine(FEDORA)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    path = tmp_path / "bin" / f"python{version}"
    executable(path, f'exec {os.path.realpath(sys.executable)} "$@"')
    complete = checks.venv_problem() is None and checks.headers_problem() is None
    assert advice.other_python() == (str(path) if complete else None)


def test_missing_headers_name_what_is_there(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(checks.sysconfig, "get_paths", lambda: {"include": str(tmp_path / "none")})
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    machine(DEBIAN, apt=["g++"])
    problem = checks.headers_problem()
    assert "no package of them" in problem and "apt-get" not in problem
    path = interpreter(tmp_path / "bin" / "python3.11", "3.11")
    assert checks.headers_problem().endswith(f"take another Python: PYTHON={path}")
    machine(DEBIAN, apt=[f"python{version}-dev"])
    assert f"install it (sudo apt-get install python{version}-dev)" in checks.headers_problem()
