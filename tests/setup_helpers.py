"""What the tests of the set-up share."""

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "tools") not in sys.path:
    sys.path.insert(0, str(ROOT / "tools"))

from envsetup.venv import Venv  # noqa: E402


def executable(path: Path, text: str) -> Path:
    """Write a small shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def install_torch(venv: Venv, version: str) -> None:
    """Put a stand-in for torch into an environment."""
    for old in venv.site.glob("torch-*.dist-info/METADATA"):
        old.unlink()
    info = venv.site / f"torch-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (venv.site / "torch").mkdir(exist_ok=True)
    (venv.site / "torch" / "__init__.py").write_text(
        textwrap.dedent(f"""
        from types import SimpleNamespace
        __version__ = "{version}"
        version = SimpleNamespace(cuda=None)
        cuda = SimpleNamespace(is_available=lambda: False)
        """)
    )
