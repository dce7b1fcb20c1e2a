"""YOLO: a text file of boxes or polygons for each image, in shares of its sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from pvt_mm.data.prepare.found import Found, Object, Picture, Tree, reading, size_of, split_of
from pvt_mm.errors import UserError

__all__ = ["read_yolo"]

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt")


def read_yolo(tree: Tree, data_file: Path | None) -> Found:
    """Read YOLO's text files; classes are in the order of their numbers.

    Args:
        tree: The source.
        data_file: Its ``data.yaml``; None for folders alone.
    """
    found = Found("YOLO")
    content: dict[str, Any] = {}
    if data_file:
        found.format += f" ({tree.name(data_file)})"
        with reading(data_file, "YAML with names and folders"):
            content = yaml.safe_load(data_file.read_text("utf-8-sig", "replace"))
            names = content["names"]
            names = names if isinstance(names, dict) else dict(enumerate(names))
            images = list(_images(tree, data_file, content))
    else:
        names = dict(enumerate(_names(tree)))
        images = [(path, split_of(tree.name(path))) for path in tree.images]
    points = content.get("kpt_shape")
    skipped = points[0] * points[1] if points else 0
    if skipped:
        found.notes.append("keypoints are not kept, the boxes are")
    labels, numbers = set(), set()
    for path, split in images:
        picture = Picture(path, tree.name(path), split)
        file = _label_file(path)
        if file.is_file():
            labels.add(file)
            _read(file, picture, found, numbers, skipped)
        found.pictures.append(picture)
    if not data_file and not names:
        names = {number: f"class_{number}" for number in range(max(numbers, default=-1) + 1)}
        found.notes.append("no file names the classes (classes.txt): named by their numbers")
    for picture in found.pictures:
        for item in [item for item in picture.objects if item.label not in names]:
            picture.objects.remove(item)
            found.leave_out(f"objects of class {item.label}, of {len(names)} names", picture.name)
        for item in picture.objects:
            item.label = names[item.label]
    found.classes = [str(names[number]) for number in sorted(names)]
    folders = {file.parent for file in labels}
    for file in tree.of(".txt"):
        if file.parent in folders and file not in labels and file.name not in NAME_FILES:
            found.leave_out("label files without an image", tree.name(file))
    return found


def _names(tree: Tree) -> list[str]:
    for path in tree.files:
        if path.name in NAME_FILES or path.suffix == ".names":
            return [
                line.strip()
                for line in path.read_text("utf-8-sig", "replace").splitlines()
                if line.strip()
            ]
    return []


def _images(tree: Tree, data_file: Path, content: dict) -> list[tuple[Path, str]]:
    """Yield the images of each split, which a folder, a list of files or several name."""
    for split in ("train", "val", "test"):
        places = content.get(split) or content.get("valid" if split == "val" else split) or []
        for place in [places] if isinstance(places, str) else places:
            path = _resolve(data_file.parent, content.get("path") or "", place)
            if path is None:
                raise UserError(
                    f"{data_file}: {split} is {place!r}, expected a folder or a list of images "
                    f"below {data_file.parent}"
                )
            if path.is_dir():
                yield from ((image, split) for image in Tree(path).images)
                continue
            for line in path.read_text("utf-8-sig", "replace").split():
                image = _resolve(path.parent, content.get("path") or "", line)
                if image is None:
                    raise UserError(f"{path}: {line} is not there")
                yield image, split


def _resolve(folder: Path, base: str, place: str) -> Path | None:
    """Find what an entry names; programs differ in what it is relative to."""
    inside = place.replace("\\", "/").lstrip("./")
    for path in (folder / base / place, folder / place, folder / inside, folder.parent / inside):
        if path.exists():
            return Path(os.path.normpath(path))
    return None


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        beside = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        if beside.is_file():
            return beside
    return image.with_suffix(".txt")


def _read(file: Path, picture: Picture, found: Found, numbers: set[int], skipped: int) -> None:
    width, height = picture.size = size_of(picture.path)
    for number, line in enumerate(file.read_text("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, *values = (float(word) for word in line.split())
            values = values[: len(values) - skipped] if skipped else values
            if label != int(label) or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
                raise ValueError
        except ValueError:
            found.leave_out("lines that are no class with a box or polygon", f"{file}:{number}")
            continue
        numbers.add(int(label))
        scaled = [value * (height if place % 2 else width) for place, value in enumerate(values)]
        if len(values) == 4:
            x, y, w, h = scaled
            picture.objects.append(Object(int(label), [x - w / 2, y - h / 2, w, h]))
        else:
            picture.objects.append(Object(int(label), segmentation=[scaled]))
