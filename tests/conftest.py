"""Settings that must be in force before torch is loaded, and work that no test needs repeated."""

import gc
import os
import sys
from importlib import metadata

import pytest

FORKED = any(
    next(metadata.distributions(name=f"onedl-{name}"), None) for name in ("mmcv", "mmengine")
)
PARALLEL = "PYTEST_XDIST_WORKER" in os.environ  # one of several processes, a core for each

# On shared cores OpenMP's waiting threads would burn the time that the working ones need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One process runs hundreds of trainings: it would keep what the largest of them needed.
os.environ.setdefault("PVT_MM_ALLOCATOR", "0")
if PARALLEL:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    """Keep the order of files, which xdist would sort by how many tests they have."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Let parallel processes begin with slow files, so that they end at about the same time."""
    if PARALLEL:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item):
    if item.get_closest_marker("openmmlab") and FORKED:
        pytest.skip("names distributions of OpenMMLab's, here are OneDL's forks of them")


def pytest_collection_finish():
    """Spare collections what the imports made: mmengine collects garbage with each data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def threads(request):
    """Let PyTorch compute with two threads, or as many as a test's indirect parameter says."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, "param", 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def quick_configs():
    """Spare configs what takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        if "mmengine" in sys.modules:  # else no test of this session needs it
            from quick import quicken_configs

            quicken_configs(patch.setattr)
        yield
