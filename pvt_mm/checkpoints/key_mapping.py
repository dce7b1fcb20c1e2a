"""From the names in a checkpoint to ours: dict in, dict out, no module in sight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pvt_mm.checkpoints.layouts import CLASSIFIER, LAYOUTS, Layout
from pvt_mm.checkpoints.recognise import describe, foreign_network, recognise_arch
from pvt_mm.checkpoints.rules import convert, tensor_at
from pvt_mm.errors import CheckpointError
from pvt_mm.wording import some

__all__ = [
    "Located",
    "MappedState",
    "identify",
    "locate",
    "map_classifier",
    "map_state_dict",
    "recognise_arch",
    "to_layout",
    "to_ours",
    "unwrap",
]

_WRAPPERS = ("state_dict", "model", "model_ema")
_USUAL_PREFIXES = ("", "backbone.", "module.", "module.backbone.")


class MappedState(NamedTuple):
    """A state dict under our names, and the file's keys that did not go into it."""

    state_dict: dict[str, Tensor]
    unused: list[str]


class Located(NamedTuple):
    """A PVT found in a state dict, still under its names.

    Attributes:
        layout: Whose names they are.
        prefix: What stands before them in the file.
        inside: Its tensors, without the prefix.
        outside: All other entries of the file, such as a detector's head.
    """

    layout: Layout
    prefix: str
    inside: dict[str, Any]
    outside: dict[str, Any]


def map_state_dict(checkpoint: Any, prefix: str | None = None) -> MappedState:
    """Take a backbone's tensors out of a checkpoint.

    Args:
        checkpoint: What the file holds: a state dict, or a dict that holds one as ``state_dict``,
            ``model`` or ``model_ema``; of a PVT in any known layout, or of a detector or segmentor
            around one.
        prefix: What the backbone's keys begin with; found by itself if None.

    Raises:
        CheckpointError: If there is no PVT in it, or something that is no tensor.
    """
    return _map(checkpoint, prefix, keep=())


def map_classifier(checkpoint: Any, prefix: str | None = None) -> MappedState:
    """Take a classifier's tensors out of a checkpoint, as :func:`map_state_dict` a backbone's.

    Of what makes the classifier, the file's ``head.weight``, ``head.bias`` and, in v1,
    ``cls_token``, ``norm.weight`` and ``norm.bias`` arrive under these official names.
    """
    return _map(checkpoint, prefix, keep=CLASSIFIER)


def _map(checkpoint: Any, prefix: str | None, keep: tuple[str, ...]) -> MappedState:
    found = locate(unwrap(checkpoint), prefix)
    state, sources = to_ours(found)
    dropped = [key for key in state if key in CLASSIFIER and key not in keep]
    unused = [source for key in dropped for source in sources[key]]
    mapped = {key: value for key, value in state.items() if key not in dropped}
    return MappedState(mapped, [*found.outside, *unused])


def to_ours(found: Located) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Rename a located PVT's tensors; keys that its layout does not know keep their names.

    Returns:
        The state dict, classifier included, and for each key the keys that it came from.

    Raises:
        CheckpointError: If something is no tensor, or a part of a tensor is absent.
    """
    inside = found.inside
    if found.layout.rules is None:
        state = {key: tensor_at(inside, key) for key in inside}
        return state, {key: [key] for key in inside}
    state, sources, unknown = convert(inside, found.layout.rules, to_ours=True)
    # Left to the strict check, which lists them as unexpected.
    state |= {key: tensor_at(inside, key) for key in unknown}
    return state, sources | {key: [key] for key in unknown}


def to_layout(state: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """Rename a PVT's tensors from ours to another code base's.

    Args:
        state: State dict under our names.
        layout: The names that are wanted.

    Returns:
        The state dict under those names, and our keys that have no place there by design, such
        as the classifier in a detection library's backbone.

    Raises:
        CheckpointError: If anything else has no place there.
    """
    if layout.rules is None:
        return dict(state), []
    left_out = [key for key in state if key in layout.lacks]
    wanted = {key: value for key, value in state.items() if key not in left_out}
    renamed, _, unknown = convert(wanted, layout.rules, to_ours=False)
    if unknown:
        raise CheckpointError(f"no place in the layout {layout.name} for {', '.join(unknown)}")
    if not any(key in renamed for key in layout.outer):  # without its head it has no such prefix
        renamed = {key.removeprefix(layout.inner): value for key, value in renamed.items()}
    return renamed, left_out


def unwrap(checkpoint: Any) -> dict[str, Any]:
    """Return the state dict in what a file holds."""
    while isinstance(checkpoint, Mapping):
        inner = (checkpoint[name] for name in _WRAPPERS if name in checkpoint)
        wrapped = next((value for value in inner if isinstance(value, Mapping)), None)
        if wrapped is None:
            break
        checkpoint = wrapped
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        found = "an empty dict" if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise CheckpointError(f"must hold a state dict, found {found}")
    if not all(isinstance(key, str) for key in checkpoint):
        raise CheckpointError("must hold a state dict, found a dict whose keys are no names")
    return dict(checkpoint)


def identify(state: Mapping[str, Any]) -> str | None:
    """Say in words what a state dict looks to be of, or None if nothing tells."""
    try:
        found = locate(state)
        looks = describe(to_ours(found)[0])
    except CheckpointError:
        network = foreign_network(state)
        return f"looks like {network}" if network else None
    alone = all(key.startswith(found.prefix) for key in state) and looks
    return f"{looks}, with nothing around it" if alone else looks


def locate(state: Mapping[str, Any], prefix: str | None = None) -> Located:
    """Find the PVT in a state dict, by the keys.

    Args:
        state: State dict of a PVT, or of something around one.
        prefix: What the PVT's keys begin with; found by itself if None.

    Raises:
        CheckpointError: If there is none, or several with nothing to tell which is meant.
    """
    if prefix is not None:
        prefix = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
        if not any(key.startswith(prefix) for key in state):
            raise CheckpointError(f"no key begins with {prefix}, but for example {some(state)}")
    found = _anchors(state)
    if prefix is not None:
        found = {start: layout for start, layout in found.items() if start == prefix}
    if not found:
        network = foreign_network(state)
        guess = f"it looks like {network}" if network else "it is of another network"
        raise CheckpointError(
            f"holds no PVT: {guess}; it has no patch_embed1.proj.weight or its like, "
            f"but for example {some(state)}"
        )
    start = next((usual for usual in _USUAL_PREFIXES if usual in found), None)
    if start is None:
        if len(found) > 1:
            raise CheckpointError(
                f"holds {len(found)} PVTs, under {', '.join(found)}: "
                "say which with prefix= in init_cfg"
            )
        start = next(iter(found))
    layout = found[start]
    inside = {_inner(key[len(start) :], layout): key for key in state if key.startswith(start)}
    outside = {key: value for key, value in state.items() if not key.startswith(start)}
    return Located(layout, start, {key: state[full] for key, full in inside.items()}, outside)


def _anchors(state: Mapping[str, Any]) -> dict[str, Layout]:
    found: dict[str, Layout] = {}
    for layout in LAYOUTS:
        anchor = re.compile(rf"((?:.*?\.)??){layout.anchor}")
        for key in state:
            if match := anchor.fullmatch(key):
                found.setdefault(match[1], layout)
    return found


def _inner(key: str, layout: Layout) -> str:
    """Give a key the prefix that it has beside a head."""
    has_it = not layout.inner or key.startswith(layout.inner) or key in layout.outer
    return key if has_it else layout.inner + key
