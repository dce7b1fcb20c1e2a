"""Checks of the backbones' arguments: each error names the argument, what came, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pvt_mm.archs import ARCHS, Arch

__all__ = ["as_pair", "check_bool", "check_int", "check_rate", "parse_out_indices", "resolve_arch"]

NUM_STAGES = 4
_REQUIRED = ("embed_dims", "depths")
_OPTIONAL = ("num_heads", "mlp_ratios", "sr_ratios")


def resolve_arch(arch: str | Mapping[str, Any], version: int) -> Arch:
    """Look up a released architecture, or make one of a dict.

    Args:
        arch: A name without its prefix (``'small'``, ``'b2_li'``), or a dict with ``embed_dims``
            and ``depths``, and optionally ``num_heads``, ``mlp_ratios``, ``sr_ratios`` and, for
            v2, ``linear_sra``; one value per stage.
        version: 1 or 2.

    Raises:
        TypeError: If ``arch`` or a value in it has the wrong type.
        ValueError: If the name or a key is unknown, a key is missing or a value is out of range.
    """
    prefix = {1: "pvt_", 2: "pvt_v2_"}[version]
    known = {name.removeprefix(prefix): a for name, a in ARCHS.items() if a.version == version}
    if isinstance(arch, str):
        if arch not in known:
            raise ValueError(f"arch={arch!r} is unknown; known are {', '.join(known)}, or a dict")
        return known[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(f"arch must be a name or a dict, got {type(arch).__name__}")

    optional = _OPTIONAL + (("linear_sra",) if version == 2 else ())
    missing = [key for key in _REQUIRED if key not in arch]
    unknown = [key for key in arch if key not in _REQUIRED + optional]
    if missing or unknown:
        raise ValueError(
            f"arch dict has missing keys {missing} and unknown keys {unknown}; "
            f"it needs {', '.join(_REQUIRED)} and may have {', '.join(optional)}"
        )
    values = dict(arch)
    linear_sra = values.pop("linear_sra", False)
    if not isinstance(linear_sra, bool):
        raise TypeError(f"arch['linear_sra'] must be a bool, got {linear_sra!r}")
    lists: dict[str, Any] = {key: _per_stage(key, value) for key, value in values.items()}
    custom = replace(
        Arch("custom", version, lists.pop("embed_dims"), lists.pop("depths")),
        linear_sra=linear_sra,
        **lists,
    )
    for dims, heads in zip(custom.embed_dims, custom.num_heads, strict=True):
        if dims % heads:
            raise ValueError(
                "arch['embed_dims'] must be multiples of arch['num_heads'], "
                f"got {custom.embed_dims} and {custom.num_heads}"
            )
    return custom


def _per_stage(key: str, value: Any) -> tuple[Any, ...]:
    """One positive number per stage: real for MLP ratios, whole for all else."""
    kind = (int, float) if key == "mlp_ratios" else int
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or any(isinstance(v, bool) or not isinstance(v, kind) for v in value)
    ):
        raise TypeError(f"arch[{key!r}] must be a list of {NUM_STAGES} numbers, got {value!r}")
    if len(value) != NUM_STAGES or min(value) <= 0:
        raise ValueError(
            f"arch[{key!r}] must hold {NUM_STAGES} positive numbers, one per stage, got {value!r}"
        )
    return tuple(value)


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is an int from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {limits}, got {value}")
    return value


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_rate(name: str, value: Any) -> float:
    """Return ``value`` if it is a probability in ``[0, 1)``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
    return float(value)


def parse_out_indices(value: Any) -> tuple[int, ...]:
    """Return ``out_indices`` as a strictly rising tuple of stages, counted from 0."""
    indices = (value,) if isinstance(value, int) else value
    if not isinstance(indices, Sequence) or isinstance(indices, str):
        raise TypeError(f"out_indices must be an int or a list of ints, got {value!r}")
    for index in indices:
        check_int("out_indices", index, 0, NUM_STAGES - 1)
    if not indices or list(indices) != sorted(set(indices)):
        raise ValueError(f"out_indices must be rising stages from 0 to 3, got {value!r}")
    return tuple(indices)


def as_pair(name: str, value: Any, low: int) -> tuple[int, int]:
    """Return an int, or a pair of ints, of at least ``low`` as ``(h, w)``."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"{name} must be an int or a pair (h, w), got {value!r}")
    return check_int(name, pair[0], low), check_int(name, pair[1], low)
