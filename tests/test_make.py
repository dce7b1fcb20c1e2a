"""The make targets and what CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from setup_helpers import ROOT


def make(*args: str) -> str:
    """Run make; return what it prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_help_lists_every_target():
    listed = re.findall(r"^  make (\S+) +\S", make("help"), re.MULTILINE)
    assert listed == [
        "help",
        "setup",
        "setup-dev",
        "peers",
        "demo",
        "test",
        "test-all",
        "docs",
        "lint",
        "clean",
    ]
    assert make() == make("help")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("setup", ["python3.99 tools/setup_env.py --venv /big/venv", "--this-python"]),
        ("demo", ["setup_env.py --venv /big/venv", "/big/venv/bin/python tools/demo.py"]),
        ("peers", ["python3.99 tools/setup_env.py --venv /big/venv", "--dev --peers"]),
        ("test", ["setup_env.py --venv", "--dev --peers", "/big/venv/bin/python -m pytest"]),
        ("lint", ["setup_env.py --venv", "--dev", "ruff check .", "ruff format --check ."]),
    ],
)
def test_make_sets_up_first_and_takes_overrides(target, expected):
    printed = make("-n", target, "VENV=/big/venv", "PYTHON=python3.99").replace('"', "")
    position = -1
    for words in expected:
        position = printed.index(words, position + 1)


def test_make_gives_no_interpreter_unless_asked_to():
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "PYTHON")}
    done = subprocess.run(
        ["make", "-n", "setup"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert "setup_env.py" in done.stdout
    assert "--this-python" not in done.stdout


def test_make_reports_the_status_of_the_setup(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        ["make", "clean", f"VENV={tmp_path}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert (tmp_path / "file").exists()


def test_ci_script_is_valid_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("before", [None, "/some/links"])
def test_ci_script_calls_lint_and_tests_and_keeps_find_links(tmp_path, before):
    clone = tmp_path / "clone"
    (clone / ".ci").mkdir(parents=True)
    (clone / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    (clone / "Makefile").write_text('lint test:\n\t@echo "$@ $$PIP_FIND_LINKS"\n')
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE", "MFLAGS"))}
    if before:
        env["PIP_FIND_LINKS"] = before
    run = {"env": env, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}

    def lines():
        done = subprocess.run(["bash", str(clone / ".ci" / "run")], cwd=tmp_path, **run)
        assert done.returncode == 0, done.stderr
        return [s.split() for s in done.stdout.splitlines()]

    kept = [before] if before else []
    assert lines() == [["lint", *kept], ["test", *kept]]
    wheels = tmp_path / "shared" / "wheels"
    wheels.mkdir(parents=True)
    assert lines() == [["lint", *kept, str(wheels)], ["test", *kept, str(wheels)]]
