"""Renaming rules that work in both directions: the engine behind the layouts' tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pvt_mm.errors import CheckpointError

__all__ = ["Converted", "Rule", "convert", "tensor_at"]

# What a template may hold: how it looks in a key, and which number it stands for.
_PATTERNS = {
    "s": r"(?P<s>[1-4])",  # stage, counted from 1
    "i": r"(?P<i>[0-3])",  # stage, counted from 0
    "b": r"(?P<b>\d+)",  # block of its stage, counted from 0
    "b1": r"(?P<b1>\d+)",  # the same, where something else stands first
    "p": r"(?P<p>weight|bias)",
}


@dataclass(frozen=True)
class Rule:
    """Which tensors of ours hold the same numbers as which of theirs.

    The tensors of one side, joined along their first dimension, equal those of the other side.

    Args:
        ours: Templates of our keys.
        theirs: Templates of their keys.
        our_parts: Lengths of our tensors, as shares of the joined one.
        their_parts: Lengths of their tensors.
        pointwise: Whether their weight is a 1x1 convolution where ours is a linear layer's.
        class_entry: Whether ours begins with an entry for the class token that theirs lacks.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    our_parts: tuple[int, ...] = (1,)
    their_parts: tuple[int, ...] = (1,)
    pointwise: bool = False
    class_entry: bool = False

    @cached_property
    def patterns(self) -> tuple[tuple[re.Pattern[str], ...], tuple[re.Pattern[str], ...]]:
        """Our templates and theirs as regular expressions."""
        return tuple(map(_compile, self.ours)), tuple(map(_compile, self.theirs))


class Converted(NamedTuple):
    """A state dict under other names, with what was left over.

    Attributes:
        state_dict: The tensors under the wanted names.
        sources: For each of them the keys that it came from.
        unknown: Keys that no rule knows, as they were.
    """

    state_dict: dict[str, Tensor]
    sources: dict[str, list[str]]
    unknown: list[str]


def convert(state: Mapping[str, Any], rules: Sequence[Rule], to_ours: bool) -> Converted:
    """Rename, join and split tensors; none of their numbers changes.

    Args:
        state: State dict of the source's names.
        rules: The table; the first rule that matches a key counts.
        to_ours: Direction: from their names to ours, or back.

    Raises:
        CheckpointError: If something is no tensor, or a part of a joined tensor is absent.
    """
    groups: dict[tuple[Any, ...], dict[int, str]] = {}
    unknown = []
    for key in state:
        found = _match(key, rules, to_ours)
        if found is None:
            unknown.append(key)
            continue
        rule, position, fields = found
        groups.setdefault((rule, *fields.items()), {})[position] = key

    result: dict[str, Tensor] = {}
    sources: dict[str, list[str]] = {}
    for (rule, *pairs), members in groups.items():
        fields = dict(pairs)
        wanted = rule.theirs if to_ours else rule.ours
        absent = [wanted[i].format(**fields) for i in range(len(wanted)) if i not in members]
        if absent:
            raise CheckpointError(f"missing beside {members.popitem()[1]}: {', '.join(absent)}")
        keys = [members[i] for i in range(len(wanted))]
        tensors = _transform(rule, [tensor_at(state, key) for key in keys], to_ours, keys)
        names = [name.format(**fields) for name in (rule.ours if to_ours else rule.theirs)]
        for name, tensor in zip(names, tensors, strict=True):
            if name in result:
                raise CheckpointError(
                    f"{name} comes twice, from {', '.join([*sources[name], *keys])}"
                )
            result[name], sources[name] = tensor, keys
    return Converted(result, sources, unknown)


def _compile(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    texts = [_PATTERNS[part] if i % 2 else re.escape(part) for i, part in enumerate(parts)]
    return re.compile("".join(texts))


def _match(
    key: str, rules: Sequence[Rule], to_ours: bool
) -> tuple[Rule, int, dict[str, Any]] | None:
    for rule in rules:
        for position, pattern in enumerate(rule.patterns[1 if to_ours else 0]):
            if match := pattern.fullmatch(key):
                return rule, position, _complete(match.groupdict())
    return None


def _complete(found: dict[str, str]) -> dict[str, Any]:
    """Fill in the other ways to count the same stage and block."""
    fields: dict[str, Any] = {"p": found["p"]} if "p" in found else {}
    if "s" in found or "i" in found:
        fields["s"] = int(found["s"]) if "s" in found else int(found["i"]) + 1
        fields["i"] = fields["s"] - 1
    if "b" in found or "b1" in found:
        fields["b"] = int(found["b"]) if "b" in found else int(found["b1"]) - 1
        fields["b1"] = fields["b"] + 1
    return fields


def tensor_at(state: Mapping[str, Any], key: str) -> Tensor:
    """Look a tensor up.

    Raises:
        CheckpointError: If it is none.
    """
    value = state[key]
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{key} must be a tensor, found {type(value).__name__}")
    return value


def _transform(rule: Rule, tensors: list[Tensor], to_ours: bool, keys: list[str]) -> list[Tensor]:
    if rule.class_entry and tensors[0].ndim == 3:
        (embed,) = tensors
        # The entry is the class token's, which a backbone never reads.
        absent = embed.new_zeros(embed[:, :1].shape)
        return [torch.cat([absent, embed], dim=1) if to_ours else embed[:, 1:]]
    joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    if rule.pointwise and to_ours and joined.shape[2:] == (1, 1):
        joined = joined.flatten(1)
    elif rule.pointwise and not to_ours and joined.ndim == 2:
        joined = joined[:, :, None, None]
    parts = rule.our_parts if to_ours else rule.their_parts
    share, rest = divmod(joined.shape[0], sum(parts)) if joined.ndim else (0, 1)
    if len(parts) == 1:
        return [joined]
    if rest:
        raise CheckpointError(
            f"{', '.join(keys)}: length {joined.shape[0] if joined.ndim else 0} must be a "
            f"multiple of {sum(parts)}"
        )
    # Copies: the parts are written and changed by themselves.
    return [part.clone() for part in joined.split([share * part for part in parts])]
