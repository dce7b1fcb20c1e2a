"""The set-up's checks of the machine and its record of what is done; nothing is installed."""

from __future__ import annotations

import ast
import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest
from setup_helpers import ROOT, executable, install_torch

import setup_env
from envsetup import advice, checks, mmcv_wheel, steps
from envsetup.venv import SetupError, Venv

# Pre-flight checks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["setup_env.py", "envsetup/__init__.py", "envsetup/advice.py"])
def test_what_checks_the_version_parses_on_old_pythons(name):
    tree = ast.parse((ROOT / "tools" / name).read_text(), feature_version=(3, 4))
    # f-strings are not told apart by feature_version.
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    # Only these may stand beside the standard library.
    imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert set(imported) <= {"envsetup", "envsetup.steps"}


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 12, 9), (3, 13, 5), (3, 14, 2)])
def test_supported_python(version):
    assert setup_env.python_problem(version) is None


@pytest.mark.parametrize("version", [(3, 6, 9), (3, 9, 18), (3, 15, 0), (4, 0, 0)])
def test_unsupported_python_is_one_line_and_status_2(version):
    code = f"""if 1:
        import runpy, sys
        sys.version_info = {version}
        sys.argv = ["setup_env.py", "--venv", "/nonexistent/venv"]
        sys.path.insert(0, "tools")
        runpy.run_path("tools/setup_env.py", run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: Python {version[0]}.{version[1]} is not supported")
    assert "make demo PYTHON=" in done.stderr


@pytest.fixture(autouse=True)
def unknown_system(tmp_path, monkeypatch):
    """Neither apt nor dnf, wherever the tests run, no other Python, no wish for CUDA."""
    monkeypatch.setattr(advice, "OS_RELEASE", str(tmp_path / "no-os-release"))
    monkeypatch.setattr(advice, "other_python", lambda: None)
    monkeypatch.delenv("FORCE_CUDA", raising=False)  # as whoever tests a CUDA build has it


@pytest.fixture
def bare_path(tmp_path, monkeypatch):
    """A PATH with nothing on it, and no compiler named in the environment."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CC", "CXX", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_missing_compiler(bare_path):
    problem = checks.compiler_problem()
    assert problem.startswith("no C++ compiler: `")
    for words in ("apt-get install g++", "dnf install gcc-c++", "conda install"):
        assert words in problem


def test_old_compiler_is_named_with_its_error(bare_path, monkeypatch):
    executable(bare_path / "old", 'echo "<stdin>:3:2: error: GCC 9 or newer is needed" >&2; exit 1')
    monkeypatch.setenv("CC", "old")
    monkeypatch.setenv("CXX", "old -pipe")
    problem = checks.compiler_problem()
    assert "`old` cannot compile C++17" in problem
    assert "GCC 9 or newer is needed" in problem


def test_working_compiler_passes(bare_path, monkeypatch):
    record = bare_path / "arguments"
    executable(bare_path / "good", f'echo "$@" > {record}')
    monkeypatch.setenv("CC", "good")
    monkeypatch.setenv("CXX", "good")
    assert checks.compiler_problem() is None
    assert "-std=c++17" in record.read_text()


def test_missing_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    problem = checks.headers_problem()
    assert str(tmp_path / "Python.h") in problem
    assert f"apt-get install {name}-dev;" in problem
    assert f"dnf install {name}-devel" in problem
    (tmp_path / "Python.h").touch()
    assert checks.headers_problem() is None


def test_missing_venv_module(monkeypatch):
    assert checks.venv_problem() is None
    monkeypatch.setattr(
        checks.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object()
    )
    problem = checks.venv_problem()
    assert "no module ensurepip" in problem
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}-venv" in problem


def test_full_disk(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(0, 0, int(1.5 * checks.GIB)))
    problem = checks.disk_problem(tmp_path / "not" / "there", 4, "the environment")
    assert problem.startswith(f"{tmp_path} has 1.5 GB free, the environment needs 4 GB")
    assert "VENV=" in problem
    assert checks.disk_problem(tmp_path, 1.5, "the environment") is None


def test_a_disk_too_small_for_the_cuda_build_is_a_warning(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(0, 0, 5 * checks.GIB))
    monkeypatch.setattr(checks, "library_problem", lambda: None)
    assert checks.machine_problems(tmp_path, gpu=False) == []
    assert "PIP_EXTRA_INDEX_URL" in checks.disk_warning(tmp_path)
    (problem,) = checks.machine_problems(tmp_path, gpu=True)
    assert "has 5.0 GB free, the environment needs 12 GB" in problem


def test_missing_system_library(monkeypatch):
    def load(name):
        if name == "libGL.so.1":
            raise OSError(name)

    monkeypatch.setattr(checks.ctypes, "CDLL", load)
    problem = checks.library_problem()
    assert problem.startswith("OpenCV needs libGL.so.1: install")
    assert "libgl1" in problem


def test_gpu_is_seen_through_nvidia_smi(bare_path, monkeypatch):
    assert not checks.has_gpu()
    executable(bare_path / "nvidia-smi", 'echo "GPU 0: Some Card"')
    assert checks.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not checks.has_gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    executable(bare_path / "nvidia-smi", "echo no driver; exit 9")
    assert not checks.has_gpu()


@pytest.mark.parametrize(
    ("nvcc", "home", "torch_cuda", "said"),
    [
        (None, None, None, None),
        (None, None, "13.0", None),  # fetched as NVIDIA's Python packages
        (None, None, "12.6", "there is no nvcc, torch of CUDA 12.6"),
        ("12.4", None, "12.6", None),
        ("12.4", None, "13.0", None),
        ("13.0", None, "12.6", "nvcc is of CUDA 13.0, torch of CUDA 12.6"),
        (None, "there", None, "CUDA_HOME is"),
        ("12.4", "there", None, None),
        ("12.4", "there", "13.0", "nvcc is of CUDA 12.4, torch of CUDA 13.0"),
    ],
)
def test_cuda_toolkit(bare_path, tmp_path, monkeypatch, nvcc, home, torch_cuda, said):
    folder = tmp_path / "toolkit" / "bin" if home else bare_path
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    if home:
        monkeypatch.setenv("CUDA_HOME", str(folder.parent))
    elif nvcc is None:
        monkeypatch.setattr(checks, "find_nvcc", lambda: None)  # one may be outside the PATH
    if nvcc:
        executable(folder / "nvcc", f'echo "Cuda compilation tools, release {nvcc}, V{nvcc}.1"')
    problem = checks.cuda_problem(torch_cuda)
    if said is None:
        assert problem is None
    else:
        assert said in problem and "CUDA_VISIBLE_DEVICES=-1" in problem


def test_cuda_home_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert checks.find_nvcc() is None
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "nvcc", "")
    assert checks.find_nvcc() == str(tmp_path / "bin" / "nvcc")


def test_all_problems_come_at_once_and_nothing_is_created(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "library_problem", lambda: "no libGL: install it")
    monkeypatch.setattr(checks, "compiler_problem", lambda: "no compiler: install it")
    assert steps.main(["--venv", str(tmp_path / "venv")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no libGL: install it",
        "error: no compiler: install it",
    ]
    assert not (tmp_path / "venv").exists()


def test_a_missing_compiler_matters_only_without_a_wheel(tmp_path, monkeypatch):
    setup = steps.Setup(Venv(tmp_path / "venv"))
    monkeypatch.setattr(checks, "build_problems", lambda *_: ["no compiler"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(mmcv_wheel, "find_wheel", lambda *_: None)
    with pytest.raises(SetupError, match="no compiler"):
        setup.check_build()
    monkeypatch.setattr(mmcv_wheel, "find_wheel", lambda *_: Path("mmcv.whl"))
    setup.check_build()


# What is done already ----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A small project folder with the files that the steps depend on."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "requirements.txt").write_text("torch==9.0\nmmcv==2.1.0\n")
    for name in ("requirements-nodeps.txt", "requirements-dev.txt", "pyproject.toml"):
        (folder / name).write_text("")
    return folder


@pytest.fixture
def finished(tmp_path, project, monkeypatch):
    """An environment that looks completely set up."""
    venv = Venv(tmp_path / "venv")
    venv.site.mkdir(parents=True)
    venv.python.parent.mkdir()
    venv.python.touch()
    install_torch(venv, "9.0")
    for name, key, _ in steps.Setup(venv, project, dev=True).steps:
        venv.record(name, key)
    venv.record("torch", "9.0")
    monkeypatch.setattr(checks, "has_gpu", lambda: False)
    return venv


def pending_names(venv: Venv, project: Path, dev: bool = True) -> list[str]:
    return [name for name, _, _ in steps.Setup(venv, project, dev=dev).pending()]


def test_a_new_environment_needs_every_step(tmp_path, project):
    venv = Venv(tmp_path / "venv")
    assert pending_names(venv, project, dev=False) == ["venv", "packages", "mmcv", "project"]
    assert pending_names(venv, project)[-1] == "dev"


def test_a_finished_environment_starts_no_process(finished, project, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    steps.Setup(finished, project, dev=True).run()
    assert pending_names(finished, project) == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("requirements.txt", ["packages", "mmcv", "project", "dev"]),
        ("pyproject.toml", ["project", "dev"]),
        ("requirements-nodeps.txt", ["project", "dev"]),
        ("requirements-dev.txt", ["dev"]),
    ],
)
def test_a_changed_file_repeats_the_steps_that_depend_on_it(finished, project, file, expected):
    with (project / file).open("a") as stream:
        stream.write("# changed\n")
    assert pending_names(finished, project) == expected


def test_another_torch_repeats_mmcv(finished, project):
    install_torch(finished, "9.1")
    assert pending_names(finished, project) == ["mmcv", "project", "dev"]


def test_a_gpu_that_turns_up_repeats_mmcv_and_one_that_is_hidden_does_not(
    finished, project, monkeypatch
):
    monkeypatch.setattr(checks, "has_gpu", lambda: True)
    assert pending_names(finished, project) == ["mmcv", "project", "dev"]
    finished.record("gpu", "seen")
    assert pending_names(finished, project) == []
    monkeypatch.setattr(checks, "has_gpu", lambda: False)
    assert pending_names(finished, project) == []


def test_an_environment_keeps_its_interpreter_unless_another_is_given(finished):
    executable(finished.python, 'echo "its own python: $@"')
    command = [sys.executable, str(ROOT / "tools" / "setup_env.py"), "--venv", str(finished.root)]
    done = subprocess.run([*command, "--dev"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("its own python: ")
    assert done.stdout.endswith(f"setup_env.py --venv {finished.root} --dev\n")
    removed = subprocess.run([*command, "--remove"], capture_output=True, text=True)
    assert removed.returncode == 0
    assert not finished.root.exists()


def test_another_interpreter_repeats_everything(finished, project, monkeypatch):
    monkeypatch.setattr(steps.sys, "executable", "/usr/bin/another-python")
    assert pending_names(finished, project)[0] == "venv"


def test_a_lost_interpreter_repeats_everything(finished, project):
    finished.python.unlink()
    assert pending_names(finished, project)[0] == "venv"


def test_an_interrupted_setup_goes_on_at_the_step_it_stopped_in(tmp_path, project, monkeypatch):
    venv = Venv(tmp_path / "venv")
    ran = []

    def prepare():
        setup = steps.Setup(venv, project)
        monkeypatch.setattr(setup, "check", lambda names: None)
        setup.steps = [(n, k, lambda n=n: ran.append(n)) for n, k, _ in setup.steps]
        return setup

    def stop():
        raise KeyboardInterrupt

    first = prepare()
    first.steps[2] = (*first.steps[2][:2], stop)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert ran == ["venv", "packages"]
    venv.python.parent.mkdir(exist_ok=True)
    venv.python.touch()
    prepare().run()
    assert ran == ["venv", "packages", "mmcv", "project"]


def test_a_foreign_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SetupError, match="was not made by this set-up"):
        Venv(tmp_path).create()
    assert steps.main(["--venv", str(tmp_path), "--remove"]) == 2
    assert "left alone" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_remove_deletes_our_environment(finished):
    assert steps.main(["--venv", str(finished.root), "--remove"]) == 0
    assert not finished.root.exists()


def test_the_record_of_steps_survives_a_torn_write(tmp_path):
    venv = Venv(tmp_path)
    assert venv.done() == {}
    venv.record("venv", "a")
    venv.record("packages", "b")
    assert venv.done() == {"venv": "a", "packages": "b"}
    (tmp_path / "pvt_mm-setup.json").write_text(json.dumps(venv.done())[:-3])
    assert venv.done() == {}


def test_only_openmims_conflicts_are_accepted():
    lines = [
        "openmim 0.3.9 requires opendatalab, which is not installed.",
        "mmcv 2.1.0 requires yapf, which is not installed.",
        "torch 2.13.0 has requirement sympy>=1.13.3, but you have sympy 1.12.",
    ]
    assert steps.conflicts(lines) == lines[1:]
    assert steps.conflicts(["No broken requirements found."]) == []
