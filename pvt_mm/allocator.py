"""glibc's malloc, set up for networks on CPUs: memory that was freed is kept for the next layer."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

__all__ = ["SWITCH", "tune_allocator"]

SWITCH = "PVT_MM_ALLOCATOR"
# Libraries that take malloc's place, mostly by LD_PRELOAD; they keep memory by rules of their own.
OTHERS = ("jemalloc", "tcmalloc", "mimalloc")
# From malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 * 2**20  # bytes


def tune_allocator() -> bool:
    """Let this process keep the memory that it frees, instead of giving it back to the system.

    Above 32 MiB glibc asks the system for each block of memory and gives it back at once; the
    system fills it with zeros, page by page, each time. Feature maps are that large, and on CPUs
    that is a good part of a network's time. Afterwards a process holds as much memory as it needed
    at most; nothing is computed differently. The tools for training, testing and inference do
    this; importing pvt_mm does not.

    Returns:
        Whether it was done. It is not where the C library is not glibc, where another allocator
        is loaded, where the environment sets one of glibc's ``MALLOC_*_`` variables or
        ``PVT_MM_ALLOCATOR=0``.
    """
    if os.environ.get(SWITCH) == "0" or platform.libc_ver()[0] != "glibc":
        return False
    if any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ):
        return False  # somebody has settled this
    maps = Path("/proc/self/maps")
    if not maps.is_file() or any(name in maps.read_text() for name in OTHERS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all([mallopt(parameter, value) for parameter, value in settings])
