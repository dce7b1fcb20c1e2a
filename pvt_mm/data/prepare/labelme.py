"""LabelMe: a JSON file of shapes for each image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from math import cos, dist, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pvt_mm.data.demo.dataset import run_lengths
from pvt_mm.data.prepare.found import Found, Object, Picture, Tree, reading, split_of
from pvt_mm.errors import UserError

__all__ = ["read_labelme"]

CORNERS = 64  # of the polygon in the place of a circle


def read_labelme(tree: Tree, files: Mapping[Path, dict[str, Any]]) -> Found:
    """Read LabelMe's files; classes are in the order of labels.txt, or the alphabet's.

    Args:
        tree: The source.
        files: Its JSON files, with their content.
    """
    found = Found("LabelMe JSON")
    taken = set()
    for file, content in files.items():
        path = tree.find_image(str(content.get("imagePath") or ""), file)
        path = path or tree.find_image(file.stem, file)
        if path is None:
            found.leave_out("annotation files whose image is not found", tree.name(file))
            continue
        taken.add(path)
        picture = Picture(path, tree.name(path), split_of(tree.name(path)))
        if content.get("imageWidth") and content.get("imageHeight"):
            picture.size = content["imageWidth"], content["imageHeight"]
        try:
            with reading(file, "LabelMe's shapes"):
                _read(content, picture, found)
        except UserError as error:
            found.leave_out("annotation files that cannot be read", error)
            continue
        found.pictures.append(picture)
    for path in tree.images:
        if path not in taken:
            found.leave_out("images without an annotation file", tree.name(path))
    labels = {item.label for each in found.pictures for item in each.objects}
    order = [
        line.strip()
        for path in tree.of(".txt")
        if path.stem == "labels"
        for line in path.read_text("utf-8-sig", "replace").splitlines()
    ]
    found.classes = [name for name in order if name in labels]
    found.classes += sorted(labels - set(found.classes))
    return found


def _read(content: dict, picture: Picture, found: Found) -> None:
    groups: dict[tuple, Object] = {}
    for shape in content["shapes"]:
        kind, label = shape.get("shape_type") or "polygon", str(shape["label"])
        segmentation = _segmentation(kind, shape, picture.size)
        if segmentation is None:
            found.leave_out(f"shapes of type {kind}, which have no area", picture.name)
            continue
        # Shapes of one label and group are parts of one object.
        group = (label, shape.get("group_id"))
        if group[1] is not None and isinstance(segmentation, list) and group in groups:
            groups[group].segmentation += segmentation
            continue
        groups[group] = Object(label, segmentation=segmentation)
        picture.objects.append(groups[group])


def _segmentation(kind: str, shape: dict, size: tuple[int, int] | None) -> list | dict | None:
    points = [[float(value) for value in point] for point in shape["points"]]
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            part = np.array(image) > 0
        x, y = (round(value) for value in points[0])
        whole = np.zeros(size[::-1], bool)
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        return run_lengths(whole)
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points[0], points[2 if len(points) == 4 else 1]
        points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    elif kind == "circle":
        (x, y), radius = points[0], dist(*points)
        turns = [2 * pi * step / CORNERS for step in range(CORNERS)]
        points = [[x + radius * cos(turn), y + radius * sin(turn)] for turn in turns]
    elif kind != "polygon" and kind != "oriented_rectangle":
        return None
    return [[value for point in points for value in point]]
