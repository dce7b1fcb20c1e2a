"""What the checks found: counts of everything, examples of each kind."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pvt_mm.data.checks.kinds import ERROR, KINDS

__all__ = ["Finding", "Findings"]

# Kept of each kind, so that a file with a million faults takes no more memory than one with few.
KEPT = 1000
# Values are quoted up to this length.
QUOTED = 80


def quote(value: Any) -> str:
    """Write a value from a data file so that it stays short and in one line."""
    # Not repr of the whole: that of a long list takes longer than all checks of it.
    if isinstance(value, (list, str)) and len(value) > QUOTED:
        value = value[:QUOTED]
    text = repr(value)
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 4]} ..."


@dataclass(frozen=True)
class Finding:
    """One fault.

    Args:
        kind: A key of ``KINDS``.
        found: What is there, in words.
        file: The image, label map or annotation file.
        image_id: The image's id in the annotation file, if it has one.
        annotation_id: The annotation's id, if it is one.
        level: Its kind's level, unless given.
    """

    kind: str
    found: str
    file: str = ""
    image_id: Any = None
    annotation_id: Any = None
    level: str = ""

    def __post_init__(self) -> None:
        if not self.level:
            object.__setattr__(self, "level", KINDS[self.kind].level)

    @property
    def expected(self) -> str:
        """What should be there."""
        return KINDS[self.kind].expected

    def __str__(self) -> str:
        parts = []
        if self.annotation_id is not None:
            parts.append(f"annotation {quote(self.annotation_id)}")
        if self.image_id is not None:
            parts.append(f"image {quote(self.image_id)}")
        where = " of ".join(parts)
        if self.file:
            where = f"{where} ({self.file})" if where else self.file
        return f"{where}: {self.found}" if where else self.found


class Findings:
    """Collects findings in bounded memory: all are counted, some of each kind are kept."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it unless there are many of its kind."""
        key = (finding.level, finding.kind)
        self.counts[key] += 1
        kept = self.examples.setdefault(key, [])
        if len(kept) < KEPT:
            kept.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add several."""
        for finding in findings:
            self.add(finding)

    def count(self, level: str) -> int:
        """How many findings of a level there are."""
        return sum(number for (its, _), number in self.counts.items() if its == level)

    @property
    def first_error(self) -> Finding | None:
        """The first finding that is an error."""
        for (level, _), kept in self.examples.items():
            if level == ERROR:
                return kept[0]
        return None

    def groups(self) -> Iterator[tuple[str, str, int, list[Finding]]]:
        """Yield level, kind, count and examples: errors first, in the order of ``KINDS``."""
        order = list(KINDS)
        for level, kind in sorted(self.counts, key=lambda key: (key[0], order.index(key[1]))):
            key = (level, kind)
            yield level, kind, self.counts[key], self.examples[key]

    def as_dict(self) -> list[dict]:
        """The groups for JSON."""
        return [
            {
                "level": level,
                "kind": kind,
                "count": count,
                "expected": KINDS[kind].expected,
                "advice": KINDS[kind].advice,
                "findings": [asdict(finding) for finding in kept],
            }
            for level, kind, count, kept in self.groups()
        ]
