"""The device that a tool works on, and the number type."""

from functools import cache
from pathlib import Path

import torch
from mmengine.logging import print_log

from pvt_mm.errors import UserError

__all__ = ["DTYPES", "choose_device", "choose_dtype", "has_bfloat16", "read_cpu_info"]

DTYPES = ("float32", "bfloat16")
CPU_INFO = Path("/proc/cpuinfo")
# Names of the instructions in Linux's list: Intel's and AMD's two, Arm's one.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return a device that is there.

    Args:
        name: What ``--device`` says, such as ``cpu`` or ``cuda:1``; None means a GPU if there is
            one.

    Raises:
        UserError: If the device is unknown or absent.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if str(name).startswith("cuda") and not torch.cuda.is_available():
            reason = "torch finds no GPU; leave the option out for the CPU"
        raise UserError(f"--device {name} cannot be used: {reason}") from error
    return device


def read_cpu_info() -> str:
    """Read what Linux says of the processor; nothing on other systems."""
    return CPU_INFO.read_text() if CPU_INFO.is_file() else ""


@cache
def has_bfloat16(device: str) -> bool:
    """Whether a kind of device, ``cpu`` or ``cuda``, has instructions for bfloat16."""
    if device == "cuda":
        # torch's own question counts emulation, and can be told not to since 2.4 only.
        return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
    return not BFLOAT16_FLAGS.isdisjoint(read_cpu_info().split())


def choose_dtype(dtype: str, device: str | torch.device) -> str:
    """Return what to compute in: float32 where bfloat16 would be emulated, which is said.

    Args:
        dtype: What ``--dtype`` says, one of ``DTYPES``.
        device: Where.

    Raises:
        UserError: If the number type is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    kind = torch.device(device).type
    if dtype == "bfloat16" and not has_bfloat16(kind):
        print_log(
            f"--dtype bfloat16: this {kind.upper()} has no instructions for it; float32 it is",
            logger="current",
        )
        return "float32"
    return dtype
