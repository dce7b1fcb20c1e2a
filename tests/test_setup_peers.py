"""The peers' environment: its steps, its layers, its removal; nothing is installed."""

import subprocess
import sys

import pytest
from setup_helpers import ROOT

from envsetup import peers, steps
from envsetup.venv import SetupError, Venv


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("requirements.txt", "requirements-peers.txt", "requirements-projects.txt"):
        (folder / name).write_text("")
    return folder


@pytest.fixture
def setup(tmp_path, project, monkeypatch):
    """The set-up beside a main environment, pip replaced."""
    main = Venv(tmp_path / "venv")
    main.site.mkdir(parents=True)
    setup = peers.PeersSetup(main, project)
    setup.installed = []
    for index, name in ((2, "packages"), (3, "projects")):
        monkeypatch.setattr(setup, name, lambda name=name: setup.installed.append(name))
        setup.steps[index] = (*setup.steps[index][:2], getattr(setup, name))
    return setup


def python(venv, code):
    return subprocess.run([venv.python, "-c", code], capture_output=True, text=True)


def pending(setup, project):
    return [name for name, _, _ in peers.PeersSetup(setup.main, project).pending()]


def test_it_stands_beside_the_main_one(tmp_path):
    assert peers.peers_of(Venv(tmp_path / ".venv")).root == tmp_path / ".venv-peers"


def test_layers_and_what_is_remembered(setup, project, tmp_path):
    for name, text in (("both", "'main'"), ("main_only", "1")):
        (setup.main.site / f"{name}.py").write_text(f"origin = {text}\n")
    (tmp_path / "editable").mkdir()
    (tmp_path / "editable" / "own.py").write_text("")
    (setup.main.site / "own.pth").write_text(str(tmp_path / "editable"))
    setup.run()
    assert setup.installed == ["packages", "projects"] and pending(setup, project) == []
    (setup.venv.site / "both.py").write_text("origin = 'peers'\n")
    done = python(setup.venv, "import both, main_only, own; print(both.origin)")
    assert done.stdout == "peers\n", done.stderr
    setup.run()
    assert setup.installed == ["packages", "projects"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("requirements.txt", ["packages", "projects"]),
        ("requirements-peers.txt", ["packages", "projects"]),
        ("requirements-projects.txt", ["projects"]),
    ],
)
def test_changed_pins_repeat_the_installation(setup, project, file, expected):
    setup.run()
    (project / file).write_text("# changed")
    assert pending(setup, project) == expected


def test_another_main_environment_repeats_everything(setup, project):
    setup.run()
    setup.main = Venv(setup.main.root.with_name("other"))
    again = peers.PeersSetup(setup.main, project)
    again.venv = setup.venv
    assert [name for name, _, _ in again.pending()] == ["venv", "layer", "packages", "projects"]


def test_projects_that_do_not_install_stop_nothing(setup, project, monkeypatch, capsys):
    """The real step, whose pip fails after it has written a part."""
    folder = setup.venv.root / "projects"

    def fail(*command):
        folder.mkdir(parents=True)
        raise SetupError("xtcocotools: no compiler")

    monkeypatch.setattr(setup.main, "pip", fail)
    peers.PeersSetup.projects(setup)
    assert "no compiler" in capsys.readouterr().out and not folder.exists()


def test_remove_takes_both(setup, tmp_path):
    setup.main.record("venv", "x")
    setup.run()
    assert steps.main(["--venv", str(setup.main.root), "--remove"]) == 0
    assert not setup.venv.root.exists() and not setup.main.root.exists()


def test_a_foreign_folder_is_left_alone(setup):
    setup.venv.root.mkdir()
    (setup.venv.root / "thesis.txt").touch()
    with pytest.raises(SetupError, match="was not made by this set-up"):
        setup.run()
    assert (setup.venv.root / "thesis.txt").exists()


FAKE_TORCH = """
calls = []
class ops:
    @staticmethod
    def load_library(path):
        calls.append(path)
        {load}
class library:
    class Library:
        def __init__(self, *args): calls.append(args)
        def define(self, schema): calls.append(schema.split("(")[0])
"""


@pytest.mark.parametrize(
    ("load", "compiled", "expected"),
    [
        ("raise OSError('no libcudart')", True, ["_C.so", ("torchvision", "FRAGMENT")]),
        ("pass", True, ["_C.so"]),
        ("pass", False, [("torchvision", "FRAGMENT")]),
    ],
)
def test_operators_are_declared_only_where_they_lack(tmp_path, load, compiled, expected):
    (tmp_path / "torch.py").write_text(FAKE_TORCH.format(load=load))
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("import torch; torch.calls.append('import')")
    if compiled:
        (package / "_C.so").touch()
    code = f"""if 1:
        import sys
        sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / "tools" / "envsetup")!r}]
        import torchvision_ops
        assert "torch" not in sys.modules  # starting Python stays quick
        import torchvision, torch
        print([c.rsplit("/")[-1] if isinstance(c, str) else c for c in torch.calls])
    """
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    wanted = [*expected, "import"]
    if ("torchvision", "FRAGMENT") in wanted:
        wanted[-1:] = ["nms", "qnms", "import"]
    assert done.stdout == f"{wanted}\n", done.stderr
