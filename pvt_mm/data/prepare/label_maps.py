"""Folders of label maps: class numbers, colours, or 0 and 255; Cityscapes' and ADE20K's trees."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from pvt_mm.data.checks import IGNORED
from pvt_mm.data.prepare.found import Found, Picture, Tree, split_of
from pvt_mm.errors import UserError
from pvt_mm.wording import one_line, some

__all__ = ["is_label_map", "read_classes", "read_label_maps", "read_values"]

_FOLDER = re.compile(
    r"(train|val|valid|test)?[_-]?(\w*annot(ations?)?|labels?|label_?maps?|masks?|gt|gt(fine|coarse)|"
    r"ground_?truths?|segmentation(class|masks?)?|segmentationclasspng|targets?)([_-]?png)?"
)
_END = re.compile(r"(_leftImg8bit|_gt(Fine|Coarse)_\w+|_masks?|_labels?|_seg(mentation)?|_gt|_L)$")
_NO_LABELS = re.compile(r"_instanceIds$|_color$|_parts_\d+$")
# Cityscapes' ids of its 19 classes, in their order.
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
MANY = 256  # values
# Up to here, 255 beside other values is taken for 'ignored' and not for a level of grey.
SMALL = 64


def is_label_map(tree: Tree, path: Path) -> bool:
    """Whether an image is a label map, by its folders' names or the end of its own."""
    folders = tree.name(path).lower().split("/")[:-1]
    end = _END.search(path.stem)
    if end and end[0] == "_leftImg8bit":
        return False
    return bool(end) or any(map(_FOLDER.fullmatch, folders)) or "SegmentationObject" in path.parts


def read_label_maps(tree: Tree, classes: Sequence[tuple[str, int | None]], ignore: set[int]):
    """Find images with their label maps, and the class of each value.

    Args:
        tree: The source.
        classes: Names of the classes, each with its value if that is known.
        ignore: Values that belong to no class.

    Returns:
        What was found; ``values`` holds each value that occurs.
    """
    found = Found("label maps")
    maps: dict[tuple, list[Path]] = defaultdict(list)
    for path in filter(lambda path: is_label_map(tree, path), tree.images):
        if _NO_LABELS.search(path.stem) or "SegmentationObject" in path.parts:
            found.leave_out("maps of instances, parts or display colours", tree.name(path))
        else:
            maps[split_of(tree.name(path)), _END.sub("", path.stem)].append(path)
    lists = tree.split_lists()
    for path in tree.images:
        if is_label_map(tree, path):
            continue
        split = split_of(tree.name(path))
        candidates = maps.pop((split, _END.sub("", path.stem)), [])
        best = [each for each in candidates if each.stem.endswith("TrainIds")] or candidates
        if not best:
            found.leave_out("images without a label map", tree.name(path))
        elif len(best) > 1:
            raise UserError(f"{path} has several label maps: {some(best)}; expected one")
        else:
            split = lists.get(path.stem) or split
            found.pictures.append(Picture(path, tree.name(path), split, label_map=best[0]))
        for other in candidates:
            if best and other != best[0]:
                found.leave_out("label maps in the place of which another is used", other.name)
    for path in [path for paths in maps.values() for path in paths]:
        found.leave_out("label maps without an image", tree.name(path))
    _choose_classes(tree, found, list(classes), ignore)
    return found


def read_values(path: Path, by_colour: bool) -> np.ndarray:
    """Read a label map: class numbers, or colours as ``red << 16 | green << 8 | blue``.

    Args:
        path: The file.
        by_colour: Whether to return colours.

    Returns:
        ``(H, W)`` int32.
    """
    with Image.open(path) as image:
        if by_colour or image.mode not in ("1", "L", "P", "I", "I;16"):
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
            return red << 16 | green << 8 | blue if by_colour else red
        return np.asarray(image).astype(np.int32)


def _is_colour(path: Path) -> bool:
    with Image.open(path) as image:
        if image.mode in ("1", "L", "P", "I", "I;16", "LA"):
            return False
        pixels = np.asarray(image.convert("RGB"))
    return bool((pixels != pixels[..., :1]).any())


def _choose_classes(
    tree: Tree, found: Found, classes: list[tuple[str, int | None]], ignore: set[int]
) -> None:
    kept, colours = [], Counter()
    for picture in found.pictures:
        try:
            colours[_is_colour(picture.label_map)] += 1
            kept.append(picture)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            reason = "label maps that cannot be read"
            found.leave_out(reason, f"{picture.label_map} ({one_line(error)})")
    found.pictures = kept
    found.by_colour = bool(colours[True])
    counts: Counter[int] = Counter()
    for picture in kept:
        values, pixels = np.unique(
            read_values(picture.label_map, found.by_colour), return_counts=True
        )
        counts.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
    if not counts:
        return
    seen = sorted(counts)
    if len(seen) > MANY or (not found.by_colour and not 0 <= seen[0] <= seen[-1] <= IGNORED):
        raise UserError(
            f"the label maps of {tree.root} hold {len(seen)} different values, up to "
            f"{_word(found, seen[-1])}; expected at most {MANY} classes: a label map is written "
            "without loss (PNG), smoothing, or numbers of instances"
        )
    binary = seen == [0, IGNORED] and not found.by_colour
    low = [value for value in seen if value != IGNORED]
    if not found.by_colour and not binary and low and low[-1] < SMALL:
        ignore = ignore | {IGNORED}
    classes = classes or (_table(tree) if found.by_colour else _names(tree, found, seen))
    if any(value is not None for _, value in classes):
        named = {value: name for name, value in classes}
    else:
        named = _by_order(found, [value for value in seen if value not in ignore], classes, binary)
    # Equal names are one class.
    found.classes = list(dict.fromkeys(named[value] for value in named if value not in ignore))
    for value in seen:
        known = value in named and value not in ignore
        found.values[value] = found.classes.index(named[value]) if known else IGNORED
        if not known and value not in ignore:
            found.leave_out("values of no class, ignored", _word(found, value))
    if all(number == IGNORED for number in found.values.values()):
        values = some([_word(found, value) for value in seen], 20)
        raise UserError(
            f"the label maps of {tree.root} hold {values}, of which none is a class "
            f"({some(found.classes, 20)}); name them with --classes NAME=VALUE"
        )
    kind = "colours" if found.by_colour else "0 and 255" if binary else "class numbers"
    found.format = f"folders of {kind}"
    meaning = [
        f"{_word(found, value)} is {'ignored' if number == IGNORED else found.classes[number]!r}"
        for value, number in found.values.items()
    ]
    found.notes.append("in the label maps " + some(meaning, 40))
    if len(found.classes) < 2:
        raise UserError(
            f"the label maps of {tree.root} hold one class alone ({some(meaning)}); expected at "
            "least two, the background's included"
        )


def _by_order(
    found: Found, seen: list[int], classes: list[tuple[str, None]], binary: bool
) -> dict[int, str]:
    """Name values by their order."""
    names = [name for name, _ in classes]
    if binary or found.by_colour or not names:
        values = seen
        own = ["background" if not value else _own_name(found, value, binary) for value in seen]
        if names and len(names) == len(seen) - 1 and not seen[0]:
            names = ["background", *names]
        names = names or own
        if len(names) != len(values):
            raise UserError(
                f"--classes names {len(names)} classes, the label maps hold {len(values)} values "
                f"({some([_word(found, value) for value in values], 20)}); expected as many, or "
                "NAME=VALUE"
            )
    elif seen[-1] == len(names):
        values, names = range(len(names) + 1), ["background", *names]
    else:
        values = range(len(names))
    return dict(zip(values, names, strict=True))


def _own_name(found: Found, value: int, binary: bool) -> str:
    return "object" if binary else _word(found, value) if found.by_colour else f"class_{value}"


def _word(found: Found, value: int) -> str:
    return f"#{value:06x}" if found.by_colour else str(value)


def _table(tree: Tree) -> list[tuple[str, int]]:
    """Read the table of colours that CVAT (labelmap.txt) and CamVid (class_dict.csv) write."""
    for path in tree.files:
        if path.name == "labelmap.txt":
            rows = [
                line.split(":")[:2] for line in path.read_text("utf-8-sig", "replace").splitlines()
            ]
            rows = [row for row in rows if len(row) == 2 and row[1] and row[0][0] != "#"]
            return read_classes([f"{name}={colour}" for name, colour in rows])
        if path.name == "class_dict.csv":
            rows = list(csv.reader(path.read_text("utf-8-sig", "replace").splitlines()))[1:]
            return read_classes([f"{row[0]}={','.join(row[1:4])}" for row in rows if row])
    return []


def _names(tree: Tree, found: Found, seen: list[int]) -> list[tuple[str, int | None]]:
    """Name class numbers as the tree's own files, or those of well-known trees, do."""
    for path in tree.files:
        if path.name in ("classes.txt", "labels.txt", "class_names.txt"):
            return [
                (line.strip(), None)
                for line in path.read_text("utf-8-sig", "replace").splitlines()
                if line.strip()
            ]
        if path.name == "objectInfo150.txt":
            rows = [
                line.split("\t") for line in path.read_text("utf-8-sig", "replace").splitlines()[1:]
            ]
            return [(row[-1].split(",")[0].strip(), int(row[0])) for row in rows]
    if any("_gtFine_" in picture.label_map.name for picture in found.pictures):
        from mmseg.utils import cityscapes_classes

        trained = all("TrainIds" in picture.label_map.name for picture in found.pictures)
        return list(zip(cityscapes_classes(), range(19) if trained else CITYSCAPES, strict=True))
    if "ADEChallengeData" in str(tree.root.resolve()) and seen[-1] <= 150:
        from mmseg.utils import ade_classes

        return [(name, number) for number, name in enumerate(ade_classes(), 1)]
    return []


def read_classes(words: Sequence[str]) -> list[tuple[str, int | None]]:
    """Read what ``--classes`` names.

    Args:
        words: ``NAME``, ``NAME=NUMBER``, ``NAME=R,G,B`` or ``NAME=#RRGGBB`` each.

    Raises:
        UserError: If a value is none of these, or only some have one.
    """
    classes = []
    for word in words:
        name, sign, value = word.rpartition("=") if "=" in word else (word, "", "")
        try:
            if value.isdigit() or not sign:
                number = int(value) if sign else None
            else:
                colour = f"rgb({value})" if "," in value else value
                red, green, blue = ImageColor.getrgb(colour)[:3]
                number = red << 16 | green << 8 | blue
        except ValueError as error:
            raise UserError(
                f"--classes {word}: expected NAME, NAME=NUMBER, NAME=R,G,B or NAME=#RRGGBB"
            ) from error
        classes.append((name, number))
    if len({number is None for _, number in classes}) > 1:
        raise UserError("--classes: expected a value for each class, or for none")
    return classes
