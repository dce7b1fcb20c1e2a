"""From labelled images of any known format to a folder that the configs read.

::

    OUT/
        prepared.json            what was found, and what was left out
        images/                  the source's images, linked or copied
        train.json, val.json     objects, in COCO's format; or
        train.txt, val.txt       names of images, whose label maps are
        labels/NAME.png          class numbers from 0, 255 where ignored
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pvt_mm.data.prepare.coco import read_coco
from pvt_mm.data.prepare.found import Found, Picture, Tree, reading, size_of
from pvt_mm.data.prepare.label_maps import is_label_map, read_label_maps, read_values
from pvt_mm.data.prepare.labelme import read_labelme
from pvt_mm.data.prepare.objects import check_objects, write_coco
from pvt_mm.data.prepare.splits import contents, split_pictures
from pvt_mm.data.prepare.voc import read_voc
from pvt_mm.data.prepare.yolo import NAME_FILES, read_yolo
from pvt_mm.errors import UserError
from pvt_mm.wording import some

__all__ = ["FORMATS", "MARKER", "Prepared", "prepare_data"]

FORMATS = ("coco", "voc", "yolo", "labelme", "masks")
MARKER = "prepared.json"
# Of cameras and phones; not every OpenCV and Pillow reads them.
UNREAD = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw")


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        folder: Where.
        source: What it was made of.
        format: The source's format.
        task: ``boxes``, ``masks`` (all objects have one) or ``label maps``.
        classes: Names of the classes, in their order.
        category_ids: Of objects' classes.
        splits: For each split the number of images, and of images by class.
        size: Width and height in pixels, each the median.
        side: Median of the objects' sides in pixels: the root of width times height.
        notes: What the user should know.
        left_out: Names of what is not used, by the reason.
    """

    folder: str
    source: str
    format: str
    task: str
    classes: list[str]
    category_ids: list[int]
    splits: dict[str, dict[str, Any]]
    size: tuple[int, int]
    side: float
    notes: list[str]
    left_out: dict[str, list[str]]


def prepare_data(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str | None = None,
    classes: Sequence[tuple[str, int | None]] = (),
    ignore: Sequence[int] = (),
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    group_by: str | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Find out what a source is, and write it as one data set; the source is not touched.

    Args:
        source: A folder, or an annotation file in it.
        out: The folder to write.
        format: One of ``FORMATS``; found out unless given.
        classes: Names in their order, for label maps with values; see ``read_classes``.
        ignore: Values of label maps that belong to no class.
        shares: Of the splits, where the source has none; 0.8 and 0.2 unless given.
        seed: Of these splits.
        group_by: A regular expression; images in whose names it finds the same stay together.
        overwrite: Whether to replace what was prepared there before.

    Raises:
        UserError: If the source is of no known format, or ``out`` is in the way.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        raise UserError(f"{source} is not there; expected a folder of labelled images, or a file")
    _check_out(source, out, overwrite)
    tree = Tree(source)
    found = _read(source, tree, format, classes, set(ignore))
    for path in tree.of(*UNREAD):
        found.leave_out("images of a format to convert first, to JPEG or PNG", tree.name(path))
    if found.values:
        _check_sizes(found)
    else:
        check_objects(found, [name for name, _ in classes])
    if not found.pictures:
        reasons = [f"{len(names)} {reason}" for reason, names in found.left_out.items()]
        raise UserError(f"{source} ({found.format}) has no image to use: {some(reasons, 9)}")
    if not found.values and not any(picture.objects for picture in found.pictures):
        reasons = [f"{len(names)} {reason}" for reason, names in found.left_out.items()]
        more = f": {some(reasons, 9)} left out" if reasons else ""
        raise UserError(f"{source} ({found.format}) has no object in its images{more}")
    held: dict[str, set[str]] = defaultdict(set)
    for picture in found.pictures:
        held[picture.name] |= _classes_in(picture, found)
    _split(found, held, shares or {"train": 0.8, "val": 0.2}, seed, group_by)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    prepared = _write(part, found, held, source, out)
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)
    return prepared


def _check_out(source: Path, out: Path, overwrite: bool) -> None:
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"--out {out} holds the source {source}; name another folder")
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file()):
        raise UserError(f"--out {out} is there and was not prepared; name another folder")
    if not overwrite:
        raise UserError(f"--out {out} is there; --overwrite replaces it, or name another folder")


def _read(
    source: Path, tree: Tree, format: str | None, classes: Sequence, ignore: set[int]
) -> Found:
    """Read the source by the format that it is in."""
    json_files = [source] if source.is_file() else tree.of(".json")
    contents = {}
    for path in json_files if format in (None, "coco", "labelme") else ():
        if path.suffix == ".json":
            with reading(path, "JSON in UTF-8"):
                contents[path] = json.loads(path.read_text("utf-8-sig"))
    by_keys = {
        name: {
            path: content
            for path, content in contents.items()
            if isinstance(content, dict) and keys <= content.keys()
        }
        for name, keys in (("coco", {"images", "categories"}), ("labelme", {"shapes"}))
    }
    xml = [path for path in tree.of(".xml") if _is_voc(path)] if format in (None, "voc") else []
    yaml = [source] if source.suffix in (".yaml", ".yml") else tree.of(".yaml", ".yml")
    yaml = [path for path in yaml if "names" in path.read_text("utf-8-sig", "replace")]
    texts = [path for path in tree.of(".txt") if path.with_suffix("").name != "README"]
    stems = {path.stem for path in tree.images}
    yolo = yaml or any(path.name in NAME_FILES or path.stem in stems for path in texts)
    masks = any(is_label_map(tree, path) for path in tree.images)
    there = [name for name in by_keys if by_keys[name]]
    there += ["voc"] * bool(xml)
    if not there:
        # Names of classes stand beside label maps, too.
        there = ["yolo"] if yaml or (yolo and not masks) else ["masks"] if masks else []
    if format is None and len(there) != 1:
        kinds = (
            f"several formats ({', '.join(there)}); name one with --format"
            if there
            else (
                "none of the known formats: COCO, VOC XML, YOLO, LabelMe, or images beside a "
                "folder of label maps (masks, labels, annotations)"
            )
        )
        raise UserError(f"{source} holds {kinds}")
    kind = format or there[0]
    if kind == "masks":
        return read_label_maps(tree, classes, ignore)
    if kind == "yolo":
        return read_yolo(tree, yaml[0] if yaml else None)
    reader, files = {
        "coco": (read_coco, by_keys["coco"]),
        "labelme": (read_labelme, by_keys["labelme"]),
        "voc": (read_voc, xml),
    }[kind]
    if not files:
        raise UserError(f"{source} holds no file of the format {kind}")
    return reader(tree, files)


def _is_voc(path: Path) -> bool:
    try:
        return ElementTree.parse(path).getroot().tag == "annotation"
    except (ElementTree.ParseError, OSError):
        return path.parent.name == "Annotations"  # is named when it is read


def _check_sizes(found: Found) -> None:
    kept = []
    for picture in found.pictures:
        try:
            size = size_of(picture.path)
            with Image.open(picture.label_map) as labels:
                if labels.size != size:
                    reason = "label maps of another size than their image"
                    found.leave_out(reason, f"{picture.name} ({labels.size}, image {size})")
                    continue
        except (OSError, Image.DecompressionBombError):
            found.leave_out("images that cannot be read", picture.name)
            continue
        picture.size = size
        kept.append(picture)
    found.pictures = kept


def _classes_in(picture: Picture, found: Found) -> set[str]:
    if not picture.label_map:
        return {item.label for item in picture.objects}
    values = np.unique(read_values(picture.label_map, found.by_colour)).tolist()
    return {found.classes[found.values[v]] for v in values if found.values[v] < len(found.classes)}


def _split(
    found: Found,
    held: Mapping[str, set[str]],
    shares: Mapping[str, float],
    seed: int,
    pattern: str | None,
) -> None:
    """Keep the splits of the source if there are both to train and to validate on."""
    first: dict[str, Picture] = {}
    twice: dict[str, bool] = {}
    for picture in found.pictures:
        kept = first.setdefault(picture.name, picture)
        if kept is not picture:
            kept.objects += [item for item in picture.objects if item not in kept.objects]
            twice[kept.name] = twice.get(kept.name, False) or kept.split != picture.split
    anew = any(twice.values())
    if twice:
        how = ", in several splits: split anew" if anew else ""
        found.notes.append(f"{len(twice)} images are listed twice{how} ({some(twice)})")
        found.pictures = list(first.values())
    splits = {picture.split for picture in found.pictures}
    if {"train", "val"} <= splits and not anew:
        for picture in [picture for picture in found.pictures if not picture.split]:
            found.pictures.remove(picture)
            found.leave_out("images of no split, where others have one", picture.name)
        same = contents(found.pictures)
        by_split = {
            split: {
                same[p.name]: p.name for p in found.pictures if p.split == split and p.name in same
            }
            for split in ("train", "val")
        }
        if both := by_split["train"].keys() & by_split["val"].keys():
            names = [by_split["val"][digest] for digest in both]
            found.notes.append(f"{len(both)} images of val are in train, too: {some(names)}")
        return
    pool = [p for p in found.pictures if p.split != "test" or splits == {"test"} or anew]
    if "test" in splits and len(pool) < len(found.pictures):
        shares = {name: share for name, share in shares.items() if name != "test"}
    split_pictures(pool, held, shares, seed, pattern)
    how = f", groups by {pattern!r}" if pattern else ""
    found.notes.append(f"split here, classes in equal shares (seed {seed}{how})")


def _write(
    part: Path, found: Found, held: Mapping[str, set[str]], source: Path, out: Path
) -> Prepared:
    for picture in found.pictures:
        place = part / "images" / picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(picture.path.resolve(), place)
        except OSError:  # another file system
            shutil.copyfile(picture.path, place)
    splits = {}
    for split in ("train", "val", "test"):
        pictures = [picture for picture in found.pictures if picture.split == split]
        if not pictures:
            continue
        counts = Counter(name for picture in pictures for name in held[picture.name])
        splits[split] = {
            "images": len(pictures),
            "objects": sum(len(picture.objects) for picture in pictures),
            "images_by_class": {name: counts[name] for name in found.classes},
        }
        if found.values:
            _write_label_maps(part, found, pictures)
            (part / f"{split}.txt").write_text("".join(f"{p.name}\n" for p in pictures))
        else:
            write_coco(part / f"{split}.json", found, pictures)
    for split, lost in (("train", "learnt"), ("val", "scored")):
        counts = splits[split]["images_by_class"]
        if absent := [name for name in found.classes if not counts[name]]:
            found.notes.append(f"no image of {split} has {some(absent)}, so that is not {lost}")
    sizes = np.array([picture.size for picture in found.pictures])
    objects = [item for picture in found.pictures for item in picture.objects]
    sides = [(item.box[2] * item.box[3]) ** 0.5 for item in objects]
    masks = bool(objects) and all(item.segmentation for item in objects)
    prepared = Prepared(
        folder=str(out),
        source=str(source),
        format=found.format,
        task="label maps" if found.values else "masks" if masks else "boxes",
        classes=found.classes,
        category_ids=[found.ids[name] for name in found.classes] if found.ids else [],
        splits=splits,
        size=tuple(int(side) for side in np.median(sizes, axis=0)),
        side=round(float(np.median(sides)), 1) if sides else 0.0,
        notes=found.notes,
        left_out=dict(found.left_out),
    )
    (part / MARKER).write_text(json.dumps(asdict(prepared), indent=1) + "\n")
    return prepared


def _write_label_maps(part: Path, found: Found, pictures: Sequence[Picture]) -> None:
    old = np.array(sorted(found.values))
    new = np.array([found.values[value] for value in old.tolist()], np.uint8)
    for picture in pictures:
        place = part / "labels" / f"{picture.name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        values = read_values(picture.label_map, found.by_colour)
        Image.fromarray(new[np.searchsorted(old, values)]).save(place)
