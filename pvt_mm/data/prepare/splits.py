"""Splits where a source has none: each class in its share of images, groups kept together."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pvt_mm.data.prepare.found import Picture
from pvt_mm.errors import UserError

__all__ = ["contents", "split_pictures"]


def contents(pictures: Sequence[Picture]) -> dict[str, str]:
    """Return a digest of each image's file that may equal another's, by the image's name."""
    sizes = Counter(picture.path.stat().st_size for picture in pictures)
    return {
        picture.name: hashlib.sha256(picture.path.read_bytes()).hexdigest()
        for picture in pictures
        if sizes[picture.path.stat().st_size] > 1
    }


def split_pictures(
    pictures: Sequence[Picture],
    classes: Mapping[str, set[str]],
    shares: Mapping[str, float],
    seed: int,
    pattern: str | None,
) -> None:
    """Give each picture a split, so that each split has its share of each class's images.

    Groups go in turn, those of the rarest class first, where most of it is missing (iterative
    stratification, Sechidis et al. 2011). Images of the same content are one group.

    Args:
        pictures: The images.
        classes: The classes in each, by its name.
        shares: The share of each split.
        seed: Another one gives other splits.
        pattern: A regular expression; images in whose names it finds the same are one group.

    Raises:
        UserError: If there are fewer groups than splits.
    """
    same = contents(pictures)
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        match = re.search(pattern, picture.name) if pattern else None
        key = same.get(picture.name, picture.name)
        groups[(match[1] if match.re.groups else match[0]) if match else key].append(picture)
    if len(groups) < len(shares):
        raise UserError(
            f"{len(groups)} images or groups cannot be split into {', '.join(shares)}; "
            "expected at least one for each"
        )
    rest = [groups[key] for key in sorted(groups)]
    random.Random(seed).shuffle(rest)
    held = [Counter(name for picture in group for name in classes[picture.name]) for group in rest]
    total = sum(held, Counter())
    missing = {
        split: {None: share * len(pictures)} | {name: share * total[name] for name in total}
        for split, share in shares.items()
    }
    sizes: Counter[str] = Counter()
    left = list(range(len(rest)))
    while left:
        remaining = Counter(name for index in left for name in held[index])
        rarest = min(remaining, key=lambda name: (remaining[name], name)) if remaining else None
        for index in [index for index in left if rarest is None or rarest in held[index]]:
            left.remove(index)
            # The last ones go where there would be nothing.
            empty = [split for split in shares if not sizes[split]]
            among = empty if len(left) < len(empty) else shares
            split = max(among, key=lambda name: (missing[name][rarest], missing[name][None]))
            for picture in rest[index]:
                picture.split = split
            sizes[split] += len(rest[index])
            missing[split][None] -= len(rest[index])
            for name, count in held[index].items():
                missing[split][name] -= count
