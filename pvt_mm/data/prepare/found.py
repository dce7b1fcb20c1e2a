"""What a source holds: its pictures, their objects or label maps, and what had to be left out."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from pvt_mm.data.leftovers import SUFFIXES
from pvt_mm.errors import UserError
from pvt_mm.wording import one_line

__all__ = ["Found", "Object", "Picture", "Tree", "reading", "size_of", "split_of"]

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# A folder such as train2017, obj_train_data, val_images or trainannot.
_FOLDER = re.compile(
    rf"(?:obj_|images?_)?({'|'.join(SPLITS)})\d*(?:_?(?:data|set|images?|labels?|annot|masks?))?"
)
EXIF_ORIENTATION, TURNED = 0x112, 5  # orientations from 5 on swap the sides


@dataclass
class Object:
    """A labelled object.

    Args:
        label: Name of its class.
        box: x, y, width, height in pixels; made from the segmentation if it is not given.
        segmentation: Polygons or a run-length code, as COCO has them.
        crowd: 1 if it is neither learnt nor scored: a group, or what VOC calls difficult.
        entry: Further fields, which are kept.
    """

    label: str
    box: list[float] | None = None
    segmentation: list | dict | None = None
    crowd: int = 0
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass
class Picture:
    """An image and what is in it.

    Args:
        path: The file.
        name: Its place in the prepared folder of images.
        split: ``train``, ``val``, ``test`` or None.
        objects: What is labelled in it.
        label_map: File of a class for each pixel, where the source has such.
        size: Width and height in pixels, as the source says; at last as the file is read.
        entry: Further fields, which are kept.
    """

    path: Path
    name: str
    split: str | None = None
    objects: list[Object] = field(default_factory=list)
    label_map: Path | None = None
    size: tuple[int, int] | None = None
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass
class Found:
    """What a source holds.

    Args:
        format: Name of the format.
        classes: Names of the classes, in their order.
        pictures: The images.
        ids: Category ids by class, where the source has some.
        values: Class numbers by value in label maps, 255 for what is ignored.
        by_colour: Whether these values are colours, palettes' included.
        notes: What the user should know.
        left_out: Names of what is not used, by the reason.
    """

    format: str
    classes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)
    by_colour: bool = False
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def leave_out(self, reason: str, what: object) -> None:
        """Count something that is not used."""
        self.left_out[reason].append(str(what))


class Tree:
    """The files of a source.

    Args:
        source: A folder, or a file in one.
    """

    def __init__(self, source: Path) -> None:
        self.root = source if source.is_dir() else source.parent
        self.files = []
        for parent, folders, names in os.walk(self.root, followlinks=True):
            # Neither hidden ones nor what macOS adds to archives.
            folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
            self.files += [Path(parent) / name for name in sorted(names) if name[0] != "."]
        self.images = self.of(*SUFFIXES)
        if source.is_file() and not self.images and source.parent == self.root:
            self.__init__(self.root.parent)  # the images are beside the annotations' folder
            return
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.images:
            self._by_name[path.name].append(path)
            self._by_name[path.stem].append(path)

    def of(self, *suffixes: str) -> list[Path]:
        """Return the files that end in one of some suffixes, in any case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def name(self, path: Path) -> str:
        """Return a file's place in the source, without what leads out of it."""
        place = Path(os.path.relpath(path, self.root))
        return PurePosixPath(*(part for part in place.parts if part != "..")).as_posix()

    def split_lists(self) -> dict[str, str]:
        """Read Pascal VOC's lists in ImageSets: the split of each image that they name by stem."""
        lists = {}
        for path in self.of(".txt"):
            if "ImageSets" in path.parts and path.stem in SPLITS:
                stems = [
                    line.split()[0]
                    for line in path.read_text("utf-8-sig", "replace").splitlines()
                    if line.strip()
                ]
                lists |= dict.fromkeys(stems, SPLITS[path.stem])
        return lists

    def find_image(self, name: str, near: Path) -> Path | None:
        """Return the image that an annotation file means.

        Args:
            name: A file name, with or without folders or its suffix.
            near: The annotation file.
        """
        name = name.replace("\\", "/")
        for folder in (near.parent, self.root):
            if name and (folder / name).is_file():
                return folder / name
        last = PurePosixPath(name).name
        known = self._by_name.get(last) or self._by_name.get(PurePosixPath(last).stem, [])
        for folder in (near.parent, *near.parent.parents):
            inside = [path for path in known if path.is_relative_to(folder)]
            if len(inside) == 1:
                return inside[0]
            fitting = [path for path in inside if str(path).endswith(f"/{name}")]
            if len(fitting) == 1:
                return fitting[0]
            if folder == self.root or len(inside) > 1:
                return None
        return None


def split_of(name: str, file: bool = False) -> str | None:
    """Return the split that a path names.

    Args:
        name: A path in the source.
        file: Whether the file's own name may say it, too.
    """
    *folders, last = name.lower().split("/")
    for word in re.findall("[a-z]+", last) if file else ():
        if word in SPLITS:
            return SPLITS[word]
    found = [match for folder in reversed(folders) if (match := _FOLDER.fullmatch(folder))]
    return SPLITS[found[0][1]] if found else None


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of an image as it is read: turned as its EXIF orientation says."""
    with Image.open(path) as image:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) >= TURNED
        return image.size[::-1] if turned else image.size


@contextmanager
def reading(file: Path, expected: str) -> Iterator[None]:
    """Word whatever is wrong in an annotation file in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library, and each wrong field, has its own
        raise UserError(f"{file}: expected {expected}, found {one_line(error)}") from error
