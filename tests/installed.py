"""The package as users install it: a wheel, or an editable install, in an environment of its own.

The environment sees the libraries of the one that the tests run in, so that nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "configs",
    "docs",
    "examples",
    "model-index.yml",
    "pvt_mm",
    "pyproject.toml",
    "setup.py",
    "tools",
)


def call(*command: str | Path, cwd: Path, check: bool = True, **variables: str) -> str:
    """Run a command; return what it prints, both streams together."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1", **variables}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert not check or done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def copy_checkout(folder: Path) -> Path:
    """Copy what a clone holds, its links as links."""
    folder.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def build_distributions(folder: Path) -> tuple[Path, Path]:
    """Build in a copy of the checkout; returns the source archive and the wheel made of it."""
    checkout = copy_checkout(folder / "checkout")
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ".")
    pythonpath = os.environ.get("PYTHONPATH", "")
    call(*command, cwd=checkout, PYTHONPATH=pythonpath)
    (archive,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return archive, wheel


class Environment:
    """A virtual environment on top of the one that the tests run in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        # addsitedir honours the .pth files there, such as setuptools' in the place of distutils.
        add = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (self.site / "libraries.pth").write_text(add)

    @property
    def site(self) -> Path:
        """Its site-packages."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def install(self, *arguments: str | Path) -> None:
        """Run pip install without dependencies and without an index."""
        options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
        pip = (self.python, "-m", "pip", "install", *options)
        call(*pip, *arguments, cwd=self.folder)

    def mim(self, *arguments: str | Path, cwd: Path, check: bool = True, **variables: str) -> str:
        """Run the real mim in it."""
        return call(self.python, "-m", "mim", *arguments, cwd=cwd, check=check, **variables)
