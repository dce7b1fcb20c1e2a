"""Pascal VOC: an XML file of boxes for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pvt_mm.data.prepare.found import Found, Object, Picture, Tree, reading, split_of
from pvt_mm.errors import UserError

__all__ = ["read_voc"]


def read_voc(tree: Tree, files: Sequence[Path]) -> Found:
    """Read Pascal VOC's files; classes are in the alphabet's order.

    Args:
        tree: The source.
        files: Its XML files.
    """
    found = Found("Pascal VOC XML")
    lists = tree.split_lists()
    taken = set()
    for file in files:
        try:
            with reading(file, "an <annotation> of Pascal VOC"):
                picture = _read(tree, file)
        except UserError as error:
            found.leave_out("annotation files that cannot be read", error)
            continue
        if picture is None:
            found.leave_out("annotation files whose image is not found", tree.name(file))
            continue
        picture.split = lists.get(file.stem) if lists else split_of(picture.name)
        if lists and not picture.split:
            found.leave_out("images that are in no list of a split", picture.name)
        else:
            found.pictures.append(picture)
        taken.add(picture.path)
    for path in tree.images:
        if path not in taken and "Segmentation" not in path.parent.name:
            found.leave_out("images without an annotation file", tree.name(path))
    found.classes = sorted({item.label for each in found.pictures for item in each.objects})
    if difficult := sum(item.crowd for each in found.pictures for item in each.objects):
        found.notes.append(f"{difficult} difficult objects are neither learnt nor scored (iscrowd)")
    return found


def _read(tree: Tree, file: Path) -> Picture | None:
    root = ElementTree.parse(file).getroot()
    path = tree.find_image((root.findtext("filename") or "").strip(), file)
    path = path or tree.find_image(file.stem, file)
    if path is None:
        return None
    picture = Picture(path, tree.name(path))
    size = [int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height")]
    if all(size):
        picture.size = tuple(size)
    for item in root.iter("object"):
        x1, y1, x2, y2 = (
            float(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        flags = {
            key: int(item.findtext(key) or 0) for key in ("difficult", "truncated", "occluded")
        }
        box = [x1, y1, x2 - x1, y2 - y1]
        name = item.findtext("name").strip()
        kept = {key: value for key, value in flags.items() if value}
        picture.objects.append(Object(name, box, crowd=flags["difficult"], entry=kept))
    return picture
