"""The environment that holds the peers, and the move into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pvt_mm.costs.benchmark.contenders import PEER_PACKAGES
from pvt_mm.errors import UserError

__all__ = ["enter_peers", "peers_python"]

_MOVED = "PVT_MM_IN_PEERS"


def peers_python() -> Path:
    """The interpreter of the environment that ``make peers`` makes beside the running one."""
    prefix = Path(sys.prefix)
    return prefix.with_name(prefix.name + "-peers") / "bin" / "python"


def enter_peers(contenders: Sequence[str], command: Sequence[str]) -> None:
    """Go on in the peers' environment if a contender is not importable in this one.

    Does not return when it moves: the process is replaced.

    Args:
        contenders: Who takes part.
        command: Arguments for python that repeat what this process was started for.

    Raises:
        UserError: If that environment does not exist.
    """
    missing = [name for name in PEER_PACKAGES if name in contenders and find_spec(name) is None]
    if not missing or os.environ.get(_MOVED):
        return
    python = peers_python()
    if not python.is_file():
        raise UserError(
            f"--against {','.join(missing)}: not installed here, and there is no peers' "
            f"environment at {python.parents[1]}; make it with `make peers`"
        )
    # -m looks in the current folder only, and a checkout works from any.
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    sys.stdout.flush()
    quiet = ["-W", "ignore:pkg_resources is deprecated:UserWarning"]
    os.execve(
        python, [str(python), *quiet, *command], {**os.environ, "PYTHONPATH": path, _MOVED: "1"}
    )
