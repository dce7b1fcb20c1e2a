"""Checks of a whole annotation file in COCO format, in one pass and in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pvt_mm.data.checks.annotations import (
    check_annotation,
    check_category,
    check_image_entry,
    is_id,
    is_learnt,
)
from pvt_mm.data.checks.findings import Finding, Findings, quote
from pvt_mm.data.checks.json_items import JsonItems
from pvt_mm.data.checks.kinds import ERROR, WARNING
from pvt_mm.wording import some

__all__ = ["CocoFile", "ImageEntry", "check_coco"]

LISTS = ("images", "annotations", "categories")


class ImageEntry(NamedTuple):
    """What is kept of an item of ``images``."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass
class CocoFile:
    """What an annotation file holds.

    Args:
        images: By id; those with faulty entries are missing.
        names: Of the categories, in the order of the file.
        annotations: How many there are.
        crowds: How many of them are groups of objects.
        annotated: Ids of the images that have annotations.
        objects: By the category's name, how many annotations training learns from: those that
            are neither crowds nor ignored nor empty.
    """

    images: dict[int, ImageEntry] = field(default_factory=dict)
    names: list[Any] = field(default_factory=list)
    annotations: int = 0
    crowds: int = 0
    annotated: set[int] = field(default_factory=set)
    objects: Counter[str] = field(default_factory=Counter)


def check_coco(
    path: Path,
    findings: Findings,
    classes: Sequence[str] = (),
    *,
    masks: bool = False,
    evaluation: bool = False,
    objects: bool = True,
    scored: bool = True,
    by_name: bool = False,
) -> CocoFile:
    """Check a file; what is wrong goes to ``findings``.

    Args:
        path: The annotation file.
        findings: Where faults are added.
        classes: Of the data set, in the order of the labels.
        masks: Whether the model is trained on masks.
        evaluation: Whether the data set is evaluated on, not trained on.
        objects: Whether to check annotations as those of boxes and masks.
        scored: Whether predictions are compared with the annotations; else there need be none.
        by_name: Whether labels follow the names of the classes, not the order of the file.

    Returns:
        What the file holds, as far as it could be read.
    """
    check = _Check(path, findings, masks, evaluation, objects, scored, by_name)
    try:
        check.read(JsonItems(path))
    except OSError as error:
        check.add("json", f"cannot be read ({error.strerror or error})")
    except (ValueError, RecursionError) as error:
        check.add("json", f"is not valid JSON in UTF-8 ({quote(str(error))[1:-1]})")
    else:
        check.finish(tuple(classes))
    return check.content


class _Check:
    def __init__(self, path, findings, masks, evaluation, objects, scored, by_name) -> None:
        self.path, self.findings = path, findings
        self.masks, self.evaluation, self.objects = masks, evaluation, objects
        self.by_name = by_name
        self.needed = LISTS if scored else [key for key in LISTS if key != "annotations"]
        self.content = CocoFile()
        self.lists: set[str] = set()
        self.categories: dict[int, str] = {}
        # Ids of categories that annotations have: how often, and the first annotation.
        self.used: dict[Any, list] = {}
        # The same, of those that are learnt.
        self.learnt: Counter[int] = Counter()
        self.annotation_ids: set[int] = set()
        self.file_names: set[str] = set()

    def add(self, kind: str, found: str, image_id=None, annotation_id=None, level="") -> None:
        self.findings.add(Finding(kind, found, str(self.path), image_id, annotation_id, level))

    def read(self, items: JsonItems) -> None:
        if not items.is_object():
            items.skip()  # valid at all?
            self.add("json-format", "the top level is not an object")
            return
        later = None
        for key, is_array in items.keys():  # noqa: SIM118
            if key in self.lists:
                self.add("json-format", f"{key!r} is there twice")
            if not is_array:
                continue
            read = getattr(self, f"_read_{key}") if key in LISTS else None
            if key == "annotations" and "images" not in self.lists:
                later, read = items.tell(), None  # needs the images' sizes
            if key in LISTS:
                self.lists.add(key)
            for item in items.items():
                if read is not None:
                    read(item)
        for key in self.needed:
            if key not in self.lists:
                self.add("json-format", f"has no list {key!r}")
        if later is not None and "images" in self.lists:
            items.seek(later)
            for item in items.items():
                self._read_annotations(item)

    def _read_images(self, entry: Any) -> None:
        faults = list(check_image_entry(entry))
        image_id = entry.get("id") if type(entry) is dict else None
        for kind, found in faults:
            self.add(kind, found, image_id)
        if faults:
            return
        image = ImageEntry(image_id, entry["file_name"], int(entry["width"]), int(entry["height"]))
        if image.id in self.content.images:
            first = self.content.images[image.id].file_name
            self.add("image-id-twice", f"{first} and {image.file_name}", image.id)
            return
        if image.file_name in self.file_names:
            self.add("image-file-twice", f"{image.file_name} has another entry", image.id)
        self.file_names.add(image.file_name)
        self.content.images[image.id] = image

    def _read_categories(self, entry: Any) -> None:
        faults = list(check_category(entry))
        for kind, found in faults:
            self.add(kind, found)
        if faults:
            return
        number, name = entry["id"], entry["name"]
        if number in self.categories:
            self.add("category-twice", f"id {number}: {self.categories[number]!r} and {name!r}")
        elif name in self.content.names:
            self.add("category-twice", f"name {name!r} has another id than {number}")
        self.categories.setdefault(number, name)
        self.content.names.append(name)

    def _read_annotations(self, entry: Any) -> None:
        self.content.annotations += 1
        if type(entry) is not dict:
            self.add("annotation-entry", f"an entry is {quote(entry)}")
            return
        number, image_id = entry.get("id"), entry.get("image_id")
        category = entry.get("category_id")
        for name, value in (("id", number), ("image_id", image_id), ("category_id", category)):
            if not is_id(value):
                found = f"{name} is {quote(value)}" if name in entry else f"no {name}"
                self.add("annotation-entry", found, image_id, number)
                return
        if number in self.annotation_ids:
            self.add("annotation-id-twice", "its id has occurred before", image_id, number)
        elif number == 0 and self.evaluation:
            self.add("annotation-id-zero", "id 0", image_id, number)
        self.annotation_ids.add(number)
        if category in self.used:
            self.used[category][0] += 1
        else:
            self.used[category] = [1, number, image_id]
        image = self.content.images.get(image_id)
        if image is None:
            self.add("unknown-image", f"there is no image {image_id}", image_id, number)
            return
        self.content.annotated.add(image_id)
        self.content.crowds += entry.get("iscrowd") == 1
        self.learnt[category] += is_learnt(entry)
        if self.objects:
            size = image.width, image.height
            for kind, found, level in check_annotation(entry, *size, self.masks, self.evaluation):
                self.add(kind, f"{found}; image {image.file_name}", image_id, number, level)

    def finish(self, classes: tuple[str, ...]) -> None:
        if not self.lists.issuperset(self.needed):
            return
        self._check_names(classes)
        if not self.content.images and not self.findings.counts["error", "image-entry"]:
            self.add("no-images", "lists no images")
        elif not self.content.annotations and not self.evaluation:
            self.add("no-annotations", "lists no annotations")
        for category, (count, number, image_id) in self.used.items():
            if category not in self.categories:
                found = f"there is no category {category}, which {count} annotations have"
                self.add("unknown-category", found, image_id, number)
        for category, count in self.learnt.items():
            if category in self.categories and count:
                self.content.objects[self.categories[category]] += count
        self._check_order(classes)
        sound = not self.findings.count(ERROR)
        if self.objects and sound and self.content.annotations:
            self._check_objects(classes)

    def _check_names(self, classes: tuple[str, ...]) -> None:
        names = self.content.names
        absent = [name for name in classes if name not in names]
        if classes and len(absent) == len(classes):
            self.add(
                "class-name",
                f"none of the data set's classes ({some(classes)}) is a category ({some(names)}); "
                "set metainfo.classes of the data set",
            )
            return
        spelt = {name.strip().casefold(): name for name in names}
        for name in absent:
            if other := spelt.get(name.strip().casefold()):
                self.add("class-name", f"class {name!r} of the data set is {other!r} in the file")

    def _check_objects(self, classes: tuple[str, ...]) -> None:
        objects = {name: self.content.objects[name] for name in classes or self.content.names}
        unseen = [name for name, count in objects.items() if not count]
        known = [name for name in objects if name in self.content.names]
        if not known:
            return
        if len(unseen) == len(objects):
            crowds = self.content.crowds
            self.add(
                "targets-none",
                f"none of {self.content.annotations} annotations is an object of the classes "
                f"that is learnt or scored; {crowds} are crowds",
                level=WARNING if self.evaluation else "",
            )
        elif unseen and not self.evaluation:
            self.add("class-unseen", f"no object of {some(unseen)}")

    def _check_order(self, classes: tuple[str, ...]) -> None:
        # As mmdet does it: the label is the category's place among those of the file that are
        # classes, whatever the order of the classes.
        labels = [number for number, name in self.categories.items() if name in classes]
        if self.by_name:
            labels.sort(key=lambda number: classes.index(self.categories[number]))
        for label, number in enumerate(labels):
            name = self.categories[number]
            meant = classes[label] if label < len(classes) else "no class"
            if name != meant and number in self.used:
                found = f"category {name!r} (id {number}) gets label {label}, which is {meant!r}"
                self.add("category-order", found)
