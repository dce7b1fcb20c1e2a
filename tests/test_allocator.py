"""The allocator keeps what it frees, where it is asked to and nowhere else."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
# A block of 96 MiB, four times: how many pages does the system have to bring?
PROBE = """
import resource
import torch
import pvt_mm
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(24 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(10):  # until the heap has found its size
    faults()
print(sum(faults() for _ in range(3)))
"""
PAGES = 3 * 96 * 2**20 // 4096


def faults(call, **environment):
    command = [sys.executable, "-W", "ignore", "-c", PROBE.format(call=call)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    # Huge pages would be brought by the hundred.
    clean |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    *said, count = done.stdout.split()
    return said, int(count)


glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")


@glibc_only
def test_freed_memory_is_used_again():
    said, count = faults("print(pvt_mm.tune_allocator())")
    assert said == ["True"] and count < 0.02 * PAGES


@glibc_only
def test_an_import_alone_changes_nothing():
    assert faults("")[1] > 100, "the system brings fresh pages each time"


@pytest.mark.parametrize(
    "environment", [{"PVT_MM_ALLOCATOR": "0"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=str
)
def test_who_has_settled_it_is_left_alone(environment):
    assert faults("print(pvt_mm.tune_allocator())", **environment)[0] == ["False"]


@glibc_only
@pytest.mark.parametrize(
    ("module", "environment", "kept"),
    [
        ("_checkout", {}, True),
        ("_checkout", {"PVT_MM_ALLOCATOR": "0"}, False),
        ("_environment", {}, False),  # what the benchmark tool imports
    ],
)
def test_the_tools_keep_what_they_free_unless_told_otherwise(module, environment, kept):
    count = faults(
        f"import sys; sys.path.insert(0, {str(TOOLS)!r}); import {module}", **environment
    )[1]
    assert count < 0.02 * PAGES if kept else count > 100


@glibc_only
def test_other_entry_points_do_it_before_their_run():
    code = """
from types import SimpleNamespace
from pvt_mm.training.accelerating import AccelerateHook
AccelerateHook().before_run(SimpleNamespace(model=torch.nn.Identity()))
"""
    assert faults(code)[1] < 0.02 * PAGES
