"""mmcv's source distribution: fetched, unpacked, and mended where it does not build as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .venv import SetupError, Venv, say

STANDARD = (
    "'-std=c++20' if parse_version(torch.__version__) >= parse_version('2.15') else '-std=c++17'"
)
# File, what stands there in mmcv 2.1.0, what it becomes.
PATCHES = (
    # From Python 3.13 on (PEP 667) every `locals()` of a function is a new copy, without what
    # `exec` has put into an earlier one: `KeyError: '__version__'`.
    (
        "setup.py",
        "exec(compile(f.read(), version_file, 'exec'))\n    return locals()['__version__']",
        "exec(compile(f.read(), version_file, 'exec'), own := {})\n    return own['__version__']",
    ),
    # torch's headers are C++20 from 2.15 on: `std::unordered_set has no member named contains`.
    (
        "setup.py",
        "extra_compile_args['cxx'] = ['-std=c++17']",
        f"extra_compile_args['cxx'] = [{STANDARD}]",
    ),
    (
        "setup.py",
        "extra_compile_args['nvcc'] += ['-std=c++17']",
        f"extra_compile_args['nvcc'] += [{STANDARD}]",
    ),
)


def fetch(venv: Venv, pin: str, source: Path) -> None:
    """Download and unpack mmcv's source; `source` appears only when it is complete and mended.

    Args:
        venv: The environment whose pip looks for the source.
        pin: The requirement, such as ``mmcv==2.1.0``.
        source: The folder to make.

    Raises:
        SetupError: If pip finds or downloads nothing; pip's last lines are told.
    """
    fresh = source.with_name("unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    say(f"downloading the source of {pin}")
    name = pin.partition("==")[0]
    # After the download pip runs setup.py for the metadata, which may need the patches. So the
    # tree is taken that it has unpacked by then, and keeps for --no-clean.
    command = [str(venv.python), "-m", "pip", "download", "--no-clean", f"--no-binary={name}"]
    command += ["--no-deps", "--no-build-isolation", "--dest", str(fresh), pin]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with venv.process(
        command, env=venv.environ(TMPDIR=str(fresh)), errors="replace", **pipe
    ) as process:
        output = process.communicate()[0]
    tree = next(fresh.glob(f"pip-download-*/{name}_*"), None)
    if tree is None or (process.returncode and "metadata-generation-failed" not in output):
        lines = [s.strip() for s in output.splitlines() if s.strip()]
        errors = [s for s in lines if s.startswith("ERROR")] or lines
        raise SetupError(
            f"pip could not download the source of {pin}:", *(f"  {s[:300]}" for s in errors[-5:])
        )
    mend(tree)
    os.replace(tree, source)
    shutil.rmtree(fresh)


def mend(tree: Path) -> None:
    """Apply `PATCHES` to an unpacked source tree; what is mended there already stays as it is."""
    for name, old, new in PATCHES:
        path = tree / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if old in text:
            path.write_text(text.replace(old, new), encoding="utf-8")
