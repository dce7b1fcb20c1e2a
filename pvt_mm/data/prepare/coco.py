"""COCO JSON, as CVAT, Roboflow, Label Studio and labelme2coco write it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvt_mm.data.prepare.found import Found, Object, Picture, Tree, reading, split_of
from pvt_mm.data.prepare.label_maps import is_label_map
from pvt_mm.errors import UserError
from pvt_mm.wording import some

__all__ = ["read_coco"]

# Written anew.
OWN_FIELDS = {"id", "image_id", "category_id", "bbox", "segmentation", "iscrowd"}


def read_coco(tree: Tree, files: Mapping[Path, dict[str, Any]]) -> Found:
    """Read COCO files.

    Args:
        tree: The source.
        files: Its COCO files, with their content.
    """
    found = Found("COCO JSON")
    by_split = _choose(tree, files, found)
    parents = set()
    for file, content in by_split.items():
        with reading(file, "COCO's images, annotations and categories"):
            _read(tree, file, content, split_of(tree.name(file), file=True), found)
            parents |= {entry.get("supercategory") for entry in content["categories"]}
    used = {item.label for picture in found.pictures for item in picture.objects}
    for name in [name for name in found.classes if name in parents and name not in used]:
        found.classes.remove(name)
        found.leave_out("categories that are only the parents of others", name)
    if len(set(found.ids.values())) < len(found.ids):
        found.notes.append("the files number their categories differently: numbered anew from 1")
        found.ids = {}
    listed = {picture.path for picture in found.pictures}
    for path in tree.images:
        if path not in listed and not is_label_map(tree, path):
            found.leave_out("images that are in no annotation file", tree.name(path))
    return found


def _choose(tree: Tree, files: Mapping[Path, dict], found: Found) -> dict[Path, dict]:
    """Take one file for each split; one that holds all of them is not needed then."""
    if len(files) == 1:
        return dict(files)
    splits = {path: split_of(tree.name(path), file=True) for path in files}
    chosen = [path for path in files if splits[path]] or list(files)
    if len({splits[path] for path in chosen}) < len(chosen):
        chosen = [path for path in chosen if "instances" in path.stem]  # beside COCO's keypoints
    if not chosen or len({splits[path] for path in chosen}) < len(chosen):
        raise UserError(
            f"{tree.root} holds several COCO files of the same split: "
            f"{some(map(tree.name, files), 9)}; name the one to use as SOURCE"
        )
    for path in [path for path in files if path not in chosen]:
        found.leave_out("COCO files beside those of the splits", tree.name(path))
    return {path: files[path] for path in chosen}


def _read(tree: Tree, file: Path, content: dict, split: str | None, found: Found) -> None:
    names: dict[int, str] = {}
    for entry in content["categories"]:
        name = str(entry["name"])
        if names.setdefault(entry["id"], name) != name:
            raise UserError(
                f"{file}: categories {names[entry['id']]!r} and {name!r} both have id "
                f"{entry['id']}; expected an id for each, or their objects cannot be told apart"
            )
        if name in found.classes:
            known = found.ids.get(name)
            if known != entry["id"]:
                twice = f"categories {known} and {entry['id']} are {name!r}"
                found.notes.append(f"{tree.name(file)}: {twice}: taken for one class")
            continue
        found.classes.append(name)
        found.ids[name] = entry["id"]
    pictures: dict[Any, Picture] = {}
    files: dict[Any, str] = {}
    for entry in content["images"]:
        if (other := files.setdefault(entry["id"], entry["file_name"])) != entry["file_name"]:
            raise UserError(
                f"{file}: images {other} and {entry['file_name']} both have id {entry['id']}; "
                "expected an id for each, or their objects cannot be told apart"
            )
        path = tree.find_image(entry["file_name"], file)
        if path is None:
            found.leave_out("images whose file is not found", entry["file_name"])
            pictures[entry["id"]] = None
            continue
        size = (entry["width"], entry["height"]) if "width" in entry else None
        kept = {key: entry[key] for key in entry.keys() - {"file_name", "width", "height"}}
        where = split or split_of(tree.name(path))
        pictures[entry["id"]] = Picture(path, tree.name(path), where, size=size, entry=kept)
    for entry in content.get("annotations", ()):
        where = f"annotation {entry.get('id')} of {tree.name(file)}"
        if entry["category_id"] not in names:
            found.leave_out("annotations of an unknown category", where)
        elif entry["image_id"] not in pictures:
            found.leave_out("annotations of an unknown image", where)
        elif (picture := pictures[entry["image_id"]]) is None:
            found.leave_out("annotations of images whose file is not found", where)
        else:
            kept = {key: entry[key] for key in entry.keys() - OWN_FIELDS}
            picture.objects.append(
                Object(
                    names[entry["category_id"]],
                    entry.get("bbox"),
                    entry.get("segmentation") or None,
                    int(entry.get("iscrowd") or 0),
                    kept,
                )
            )
    found.pictures += [picture for picture in pictures.values() if picture]
