"""The virtual environment: where it is, what it holds, what has been done in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

STATE = "pvt_mm-setup.json"
# Settings of the calling shell that would send pip or Python somewhere else.
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_HASHES")


class SetupError(Exception):
    """Set-up cannot go on; each argument is one line for the user."""


def say(message: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f"[setup] {message}", flush=True)


def read_pins(path: Path) -> dict[str, str]:
    """Return the requirement lines of a requirements file, by lower-case project name.

    Of several lines for one project, told apart by environment markers, the last one that pip
    would take is not known here; they are kept together, separated by newlines.
    """
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line:
            name = re.split(r"[\s;<>=!~\[]", line, maxsplit=1)[0].lower()
            pins[name] = f"{pins[name]}\n{line}" if name in pins else line
    return pins


class Venv:
    """A virtual environment and the record of the set-up steps done in it.

    Args:
        root: The environment's folder; need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.python = self.root / "bin" / "python"
        self.build = self.root / "build"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = self.root / "lib" / version / "site-packages"
        self._state = self.root / STATE

    # The record of steps ---------------------------------------------------------------------

    @property
    def ours(self) -> bool:
        """Whether this set-up created the folder."""
        return self._state.is_file()

    def done(self) -> dict[str, str]:
        """Return the key of every finished step."""
        try:
            return json.loads(self._state.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def record(self, step: str, key: str) -> None:
        """Remember that a step is finished for these inputs."""
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps({**self.done(), step: key}, indent=1), encoding="utf-8")
        os.replace(new, self._state)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let only one set-up at a time work on this environment."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another set-up of {self.root} is running; waiting for it")
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    # Contents --------------------------------------------------------------------------------

    def version(self, project: str) -> str | None:
        """Return the installed version of a project, without starting the environment."""
        for dist in metadata.distributions(name=project, path=[str(self.site)]):
            return dist.version
        return None

    def create(self, *options: str) -> None:
        """Create the environment, or finish one that was interrupted.

        Args:
            options: Further options of ``python -m venv``.
        """
        if self.root.exists() and not self.ours and any(self.root.iterdir()):
            raise SetupError(
                f"{self.root} exists and was not made by this set-up: choose another folder "
                "(VENV=...) or remove it"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        keep = self.build if self.build.is_dir() else None
        for path in self.root.iterdir():
            if path not in (keep, self._state):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._state.write_text("{}", encoding="utf-8")
        # Not sys.executable, which may lie in an environment, even in the one just emptied.
        self.call([os.path.realpath(sys.executable), "-m", "venv", *options, str(self.root)])

    def remove(self) -> None:
        """Delete the environment, if it is one of ours."""
        if self.ours:
            shutil.rmtree(self.root)
        elif self.root.exists():
            raise SetupError(f"{self.root} was not made by this set-up and is left alone")

    # Commands --------------------------------------------------------------------------------

    def environ(self, **extra: str) -> dict[str, str]:
        """Return the environment variables for commands that work in the environment."""
        env = {k: v for k, v in os.environ.items() if k not in FOREIGN}
        env["PATH"] = f"{self.root / 'bin'}{os.pathsep}{env.get('PATH', '')}"
        env.update(VIRTUAL_ENV=str(self.root), PYTHONNOUSERSITE="1", PIP_NO_INPUT="1")
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", **extra)
        return env

    def call(self, command: list[str], **kwargs) -> None:
        """Run a command whose output the user sees; a failure is a SetupError."""
        with self.process(command, **kwargs) as process:
            code = process.wait()
        if code:
            words = " ".join(command if len(command) < 8 else [*command[:8], "..."])
            raise SetupError(f"`{words}` failed with status {code}; its output is above")

    def pip(self, *args: str) -> None:
        """Run pip in the environment."""
        self.call([str(self.python), "-m", "pip", *args])

    @contextlib.contextmanager
    def process(self, command: list[str], **kwargs) -> Iterator[subprocess.Popen]:
        """Start a command in a group of its own; interrupted, the whole group ends with us."""
        kwargs.setdefault("env", self.environ())
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, **kwargs
        )
        try:
            yield process
        except BaseException:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                if _ended(process, seconds=5):
                    break
            raise


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Wait for a process and all of its group; tell whether they are gone."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            process.poll()
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
