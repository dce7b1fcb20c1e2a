"""The device that a tool works on."""

import torch

from pvt_mm.errors import UserError

__all__ = ["choose_device"]


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
