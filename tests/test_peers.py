"""Runs tests/peers in the environment where timm and transformers import."""

import os
import subprocess
from pathlib import Path

import pytest

from pvt_mm.costs.benchmark.peers import peers_python

ROOT = Path(__file__).resolve().parents[1]
PYTHON = peers_python()
INTERPRETED = "test_interpreted_kernels.py"  # wants a process of its own
OTHERS = sorted(path.name for path in (ROOT / "tests" / "peers").glob("test_*.py"))
OTHERS.remove(INTERPRETED)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: make peers")
@pytest.mark.parametrize("files", [[INTERPRETED], OTHERS], ids=["kernels", "others"])
def test_beside_the_peers(files, pytestconfig):
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env.pop("PYTEST_ADDOPTS", None)
    command = [str(PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/peers/{file}" for file in files]
    if "exhaustive" not in pytestconfig.getoption("markexpr"):
        command += ["-m", ""]  # nothing is left out here, nor there
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
