"""Peak memory of one contender, in a process of its own.

Peak memory is the largest resident size while the steps run minus the resident size after the
imports, before the model is built: it counts weights, gradients, optimizer state and activations.
On a GPU it is ``torch.cuda.max_memory_allocated``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pvt_mm.allocator import tune_allocator
from pvt_mm.costs.benchmark.case import Case

__all__ = ["MemoryFailure", "main", "measure_memory", "peak_of"]

STEPS = 3
PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_MARK = "memory-result:"


class MemoryFailure(Exception):
    """The process that was to be measured did not come to an end."""


def _status_bytes(key: str) -> int:
    # Not getrusage: its maximum survives exec, and so would include the parent process.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise MemoryFailure(f"/proc/self/status has no {key}; memory is measured on Linux only")


def peak_of(action: Callable[[], object]) -> int:
    """Run something and return by how many bytes the resident size rose at most.

    Raises:
        MemoryFailure: If the kernel does not tell or does not let the peak be reset.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # what was freed goes back to the kernel
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError as error:
        raise MemoryFailure(f"the peak resident size cannot be reset: {error}") from error
    base = _status_bytes("VmRSS")
    action()
    return max(_status_bytes("VmHWM") - base, 0)


def measure_memory(case: Case, contender: str, tuned: bool = False, timeout_s: float = 3600) -> int:
    """Peak memory in bytes of a few steps of one contender, in a new process.

    Args:
        case: What to do.
        contender: Who does it.
        tuned: Whether that process calls :func:`pvt_mm.tune_allocator` first.
        timeout_s: Seconds after which it is given up.

    Raises:
        MemoryFailure: If that process fails.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    spec = json.dumps({"case": case.to_dict(), "contender": contender, "tuned": tuned})
    done = subprocess.run(
        [sys.executable, "-m", "pvt_mm.costs.benchmark.memory", spec],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return int(line.removeprefix(_MARK))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise MemoryFailure(f"memory of {contender}: {last}")


def main(spec: str) -> None:
    """Measure in this process and print the result; what :func:`measure_memory` starts."""
    import torch

    from pvt_mm.costs.benchmark.workloads import import_contender, prepare

    values = json.loads(spec)
    case, contender = Case.from_dict(values["case"]), values["contender"]
    if values["tuned"]:
        tune_allocator()
    if case.threads:
        torch.set_num_threads(case.threads)
    import_contender(contender, case)

    def run() -> None:
        step = prepare(contender, case).step
        for _ in range(STEPS):
            step()
        if case.device == "cuda":
            torch.cuda.synchronize()

    if case.device == "cuda":
        run()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = peak_of(run)
    print(f"{_MARK}{peak}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
