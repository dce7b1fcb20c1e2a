"""mmcv in the set-up: stale wheels, failed and interrupted builds, on a tiny stand-in for it."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import parse
from setup_helpers import ROOT, executable, install_torch

from envsetup import checks, mmcv_source, mmcv_wheel
from envsetup.venv import SetupError, Venv

# A source distribution that "compiles" three objects, each once, and builds a wheel that works with
# the torch it was built beside.
BACKEND = """
import os, pathlib, time, zipfile
import torch

INFO = "mmcv-2.1.0.dist-info"
FILES = {
    f"{INFO}/METADATA": "Metadata-Version: 2.1\\nName: mmcv\\nVersion: 2.1.0\\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{INFO}/RECORD": "",
    "mmcv/__init__.py": f"BUILT_FOR = {torch.__version__!r}\\n",
}

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    (pathlib.Path(folder) / INFO).mkdir()
    for name in (f"{INFO}/METADATA", f"{INFO}/WHEEL"):
        (pathlib.Path(folder) / name).write_text(FILES[name])
    return INFO

def build_wheel(folder, config_settings=None, metadata_directory=None):
    record = pathlib.Path(os.environ["COMPILED"])
    for number in (1, 2, 3):
        if os.path.exists(f"{number}.o"):
            continue
        if number == 2 and os.environ.get("BREAK") == "error":
            print("ops.cpp:7:1: error: no such thing", flush=True)
            raise SystemExit(1)
        if number == 2 and os.environ.get("BREAK") == "hang":
            pathlib.Path(os.environ["HANGING"]).write_text(str(os.getpid()))
            time.sleep(600)
        open(f"{number}.o", "w").close()
        with record.open("a") as file:
            file.write(f"{number}.o\\n")
        print(f"[{number}/3] c++ -o {number}.o", flush=True)
    name = "mmcv-2.1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return name
"""

# Of the step that pip takes for a project's metadata.
FIRST_LINE = "(pathlib.Path(folder) / INFO).mkdir()"
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

PROOF = "import mmcv, torch\nassert mmcv.BUILT_FOR == torch.__version__, 'undefined symbol'"


PKG_INFO = "Metadata-Version: 2.1\nName: mmcv\nVersion: 2.1.0\n"


def write_sdist(folder: Path) -> None:
    """Write the stand-in for mmcv's source distribution."""
    pack_sdist(folder, {"PKG-INFO": PKG_INFO, "backend.py": BACKEND, "pyproject.toml": PYPROJECT})


def pack_sdist(folder: Path, files: dict[str, str]) -> None:
    with tarfile.open(folder / "mmcv-2.1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"mmcv-2.1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def write_wheel(folder: Path, built_for: str) -> Path:
    """Write a ready-made mmcv wheel for some torch."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mmcv-2.1.0-py3-none-any.whl"
    info = "mmcv-2.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("mmcv/__init__.py", f"BUILT_FOR = {built_for!r}\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mmcv\nVersion: 2.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory):
    """A real environment with pip and a stand-in for torch 9.0."""
    venv = Venv(tmp_path_factory.mktemp("real") / "venv")
    venv.create()
    install_torch(venv, "9.0")
    return venv


@pytest.fixture
def workshop(empty_venv, tmp_path, monkeypatch):
    """The environment without mmcv, a folder where pip finds things, and no network."""
    for folder in empty_venv.site.glob("mmcv*"):
        shutil.rmtree(folder)
    empty_venv.record("mmcv for", "nothing yet")
    links = tmp_path / "links"
    links.mkdir()
    write_sdist(links)
    settings = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(links),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "COMPILED": str(tmp_path / "compiled"),
        "HANGING": str(tmp_path / "hanging"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mmcv_wheel, "PROOF", PROOF)
    monkeypatch.setattr(checks, "build_problems", lambda *_: [])
    yield empty_venv
    shutil.rmtree(empty_venv.build, ignore_errors=True)


def compiled(folder: Path) -> list[str]:
    path = folder / "compiled"
    return path.read_text().split() if path.exists() else []


TORCH = mmcv_wheel.Torch("9.0", None, ())
PIN = "mmcv==2.1.0"


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.whl"))


def test_torch_is_probed_in_the_environment(workshop):
    assert mmcv_wheel.probe_torch(workshop) == TORCH
    assert TORCH.tag.startswith("torch9.0-cpuops-optimised-cp3")


def test_without_a_wheel_mmcv_is_built_proved_and_kept(workshop, tmp_path, monkeypatch, capfd):
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert mmcv_wheel.prove(workshop) is None
    assert compiled(tmp_path) == ["1.o", "2.o", "3.o"]
    assert [p.parent.name for p in cached(tmp_path)] == [TORCH.tag]
    output = capfd.readouterr().out
    assert "the long step" in output
    assert re.search(r"mmcv \[3/3\] \d+m\d\ds", output)
    # Proved once more, it is left alone.
    monkeypatch.setattr(workshop, "pip", None)
    mmcv_wheel.install(workshop, PIN, TORCH)


def test_the_kept_wheel_saves_the_next_build(workshop, tmp_path):
    write_wheel(tmp_path / "cache" / "pvt_mm" / "wheels" / TORCH.tag, "9.0")
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert mmcv_wheel.prove(workshop) is None
    assert compiled(tmp_path) == []


def test_what_was_built_without_optimisation_is_built_again_once(workshop, tmp_path):
    """Both the environment and the cache hold such a wheel; nothing says what it was built with."""
    old = f"torch9.0-cpuops-{mmcv_wheel.MACHINE_TAG.removeprefix('optimised-')}"
    wheel = write_wheel(tmp_path / "cache" / "pvt_mm" / "wheels" / old, "9.0")
    workshop.pip("install", "--quiet", str(wheel))
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert compiled(tmp_path) == ["1.o", "2.o", "3.o"]
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert compiled(tmp_path) == ["1.o", "2.o", "3.o"]


# What mmcv 2.1.0's own setup.py does.
OLD_SETUP = """
from setuptools import setup

def get_version():
    version_file = 'mmcv/version.py'
    with open(version_file, encoding='utf-8') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']

setup(name='mmcv', version=get_version())
"""


@pytest.mark.parametrize("broken", [FIRST_LINE, "raise KeyError('__version__')"])
def test_the_source_is_fetched_whole_and_mended_even_if_its_metadata_fails(
    workshop, tmp_path, broken
):
    files = {"PKG-INFO": PKG_INFO, "setup.py": OLD_SETUP}
    files |= {"mmcv/__init__.py": "", "mmcv/version.py": "__version__ = '2.1.0'"}
    # From Python 3.12 on a new environment has no setuptools that could run setup.py.
    files |= {"pyproject.toml": PYPROJECT, "backend.py": BACKEND.replace(FIRST_LINE, broken)}
    pack_sdist(tmp_path / "links", files)
    source = tmp_path / "work" / "src"
    mmcv_source.fetch(workshop, PIN, source)
    assert [p.name for p in source.parent.iterdir()] == ["src"]
    assert (source / "mmcv" / "version.py").is_file()
    # Whichever Python runs the tests, what `locals()` holds does not matter any more.
    code = (source / "setup.py").read_text().replace("from setuptools import setup", "")
    code = code.replace("setup(name", "dict(name")
    script = f"locals = dict\n{code}\nprint(get_version())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=source, capture_output=True, text=True
    )
    assert done.stdout == "2.1.0\n", done.stderr


@pytest.mark.parametrize(
    ("torch", "standard"),
    [("2.1.0", "c++17"), ("2.14.1+cpu", "c++17"), ("2.15.0+cu132", "c++20"), ("3.0.0", "c++20")],
)
def test_the_language_of_torchs_headers_is_asked_for(tmp_path, torch, standard):
    """torch 2.15's need C++20, and what mmcv 2.1.0 appends to torch's own flags counts."""
    (tmp_path / "setup.py").write_text(
        "extra_compile_args = {'nvcc': []}\n"
        "extra_compile_args['cxx'] = ['-std=c++17']\n"
        "extra_compile_args['nvcc'] += ['-std=c++17']\n"
    )
    mmcv_source.mend(tmp_path)
    found = {"parse_version": parse, "torch": SimpleNamespace(__version__=torch)}
    exec((tmp_path / "setup.py").read_text(), found)
    assert found["extra_compile_args"] == dict.fromkeys(("cxx", "nvcc"), [f"-std={standard}"])


def test_a_source_that_cannot_be_had_is_said_in_pips_words(workshop, tmp_path):
    with pytest.raises(SetupError) as error:
        mmcv_source.fetch(workshop, "mmcv==2.1.7", tmp_path / "work" / "src")
    assert error.value.args[0] == "pip could not download the source of mmcv==2.1.7:"
    assert "No matching distribution found for mmcv==2.1.7" in error.value.args[-1]
    assert not (tmp_path / "work" / "src").exists()


# Writes down how it is called and makes the file that is asked for.
RECORDING_COMPILER = """
echo "$@" >> "$CALLS"
while [ $# -gt 0 ]; do
    [ "$1" = -o ] && : > "$2"
    shift
done
"""
EXTENSION = """
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    name="mmcv",
    version="2.1.0",
    ext_modules=[CppExtension("mmcv_ext", ["ops.cpp", "plain.c"])],
    cmdclass={"build_ext": BuildExtension},
)
"""


def test_operators_are_compiled_as_fast_as_the_interpreter(tmp_path, monkeypatch):
    """By torch's and setuptools' own means; only the compiler is replaced."""
    compiler = executable(tmp_path / "g++", RECORDING_COMPILER)
    files = {"PKG-INFO": PKG_INFO, "setup.py": EXTENSION, "ops.cpp": "", "plain.c": ""}
    pack_sdist(tmp_path, files)
    settings = {"CC": str(compiler), "CXX": str(compiler), "CALLS": str(tmp_path / "calls")}
    settings |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "CFLAGS": "-g -DMINE=1"}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checks, "build_problems", lambda *_: [])
    venv = Venv(Path(sys.prefix))
    venv.build = tmp_path / "build"
    mmcv_wheel.build(venv, PIN, TORCH)
    calls = [s.split() for s in (tmp_path / "calls").read_text().splitlines()]
    compiled = [words for words in calls if "-c" in words]
    assert {"ops.cpp", "plain.c"} <= {Path(w).name for words in compiled for w in words}
    for words in compiled:
        assert [w for w in words if w.startswith("-O")][-1:] in (["-O2"], ["-O3"]), words
        assert "-DNDEBUG" in words and "-UNDEBUG" not in words, words
        assert [w for w in words if w.startswith("-g")][-1:] == ["-g0"], words
        assert "-DMINE=1" in words, words


def test_the_users_own_flags_come_after_the_interpreters(monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-O1 -g3")
    words = mmcv_wheel.compile_flags("CXXFLAGS").split()
    assert "-DNDEBUG" in words and {"-O2", "-O3"} & set(words)
    assert words[-3:] == ["-O1", "-g3", "-g0"]


@pytest.mark.parametrize("own", [None, "-O0 -g", "-O3 -Wall -DNDEBUG -g"])
def test_an_interpreter_built_for_debugging_gives_fast_operators_too(monkeypatch, own):
    monkeypatch.delenv("CFLAGS", raising=False)
    monkeypatch.setattr(mmcv_wheel.sysconfig, "get_config_var", lambda name: own)
    words = mmcv_wheel.compile_flags("CFLAGS").split()
    assert [w for w in words if w.startswith("-O")][-1] in ("-O2", "-O3")
    assert words.count("-DNDEBUG") == 1
    assert words[-1] == "-g0"
    assert set((own or "").split()) <= set(words)


def test_a_working_wheel_that_pip_finds_is_used(workshop, tmp_path):
    write_wheel(tmp_path / "links", "9.0")
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert mmcv_wheel.prove(workshop) is None
    assert compiled(tmp_path) == []


def test_stale_wheels_are_thrown_away_and_mmcv_is_built(workshop, tmp_path, capfd):
    write_wheel(tmp_path / "links", "8.0")
    write_wheel(tmp_path / "cache" / "pvt_mm" / "wheels" / TORCH.tag, "7.0")
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert mmcv_wheel.prove(workshop) is None
    assert compiled(tmp_path) == ["1.o", "2.o", "3.o"]
    assert capfd.readouterr().out.count("is thrown away: AssertionError: undefined symbol") == 2
    with zipfile.ZipFile(cached(tmp_path)[0]) as wheel:
        assert b"9.0" in wheel.read("mmcv/__init__.py")


def test_a_failed_build_names_its_log_and_error_and_goes_on(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("BREAK", "error")
    monkeypatch.setattr(mmcv_wheel, "find_wheel", lambda *_: None)
    with pytest.raises(SetupError) as error:
        mmcv_wheel.install(workshop, PIN, TORCH)
    log = workshop.build / TORCH.tag / "build.log"
    assert str(log) in error.value.args[0]
    assert "ops.cpp:7:1: error: no such thing" in log.read_text()
    assert any("ops.cpp:7:1: error: no such thing" in line for line in error.value.args[1:])
    monkeypatch.delenv("BREAK")
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert compiled(tmp_path) == ["1.o", "2.o", "3.o"]


def test_an_interrupted_build_stops_at_once_and_goes_on(workshop, tmp_path, monkeypatch):
    code = f"""if 1:
        import sys
        sys.path.insert(0, {str(ROOT / "tools")!r})
        from envsetup import checks, mmcv_wheel, steps
        checks.build_problems = lambda *_: []
        mmcv_wheel.find_wheel = lambda *_: None
        torch = mmcv_wheel.Torch("9.0", None, ())
        steps.Setup.run = lambda self: mmcv_wheel.install(self.venv, {PIN!r}, torch)
        sys.exit(steps.main(["--venv", {str(workshop.root)!r}]))
    """
    monkeypatch.setenv("BREAK", "hang")
    for number in (signal.SIGINT, signal.SIGTERM):
        compiler = interrupt_while_compiling(code, number, tmp_path / "hanging")
        with pytest.raises(ProcessLookupError):
            os.kill(compiler, 0)
        assert compiled(tmp_path) == ["1.o"]
    monkeypatch.delenv("BREAK")
    mmcv_wheel.install(workshop, PIN, TORCH)
    assert compiled(tmp_path) == ["1.o", "2.o", "3.o"]
    assert mmcv_wheel.prove(workshop) is None


def interrupt_while_compiling(code: str, number: int, hanging: Path) -> int:
    """Run a set-up, send it a signal while its compiler hangs, and return the compiler's id."""
    hanging.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-c", code], preexec_fn=heed_interrupts)
    try:
        deadline = time.monotonic() + 120
        while not (hanging.exists() and hanging.read_text()) and time.monotonic() < deadline:
            assert process.poll() is None, "the set-up ended before its build could be interrupted"
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    finally:
        process.kill()
    return int(hanging.read_text())


def heed_interrupts():
    """A shell that runs the tests in the background has them ignore SIGINT, children included."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_real_proof_passes_in_this_environment():
    done = subprocess.run([sys.executable, "-c", mmcv_wheel.PROOF], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_build_jobs_fit_cores_and_memory(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(mmcv_wheel.os, "sched_getaffinity", lambda _: set(range(64)))
    texts = {"/proc/meminfo": "MemTotal: 1 kB\nMemAvailable:   9437184 kB\n"}

    def read_text(self):
        if str(self) not in texts:
            raise FileNotFoundError(self)
        return texts[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert mmcv_wheel.build_jobs() == 4
    texts["/sys/fs/cgroup/memory.max"] = str(5 * checks.GIB)
    assert mmcv_wheel.build_jobs() == 2
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert mmcv_wheel.build_jobs() == 4
    monkeypatch.setattr(mmcv_wheel.os, "sched_getaffinity", lambda _: {0})
    assert mmcv_wheel.build_jobs() == 1
    monkeypatch.setenv("MAX_JOBS", "7")
    assert mmcv_wheel.build_jobs() == 7


def test_a_killed_compiler_is_explained(tmp_path):
    log = tmp_path / "build.log"
    log.write_text("[1/3] c++\nc++: fatal error: Killed signal terminated program cc1plus\n")
    lines = mmcv_wheel.build_failure(log)
    assert "Killed signal" in lines[1]
    assert "MAX_JOBS=1" in lines[-1]
