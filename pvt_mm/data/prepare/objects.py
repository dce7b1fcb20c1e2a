"""Objects: checked against their images, and written as COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pvt_mm.data.checks import check_mask
from pvt_mm.data.checks.masks import is_number
from pvt_mm.data.prepare.found import Found, Object, Picture, size_of
from pvt_mm.errors import UserError
from pvt_mm.wording import some

__all__ = ["check_objects", "write_coco"]


def check_objects(found: Found, classes: Sequence[str]) -> None:
    """Leave out, and count, what cannot be learnt from; number the categories.

    Args:
        found: What the source holds.
        classes: The classes to keep, in their order; all unless given.

    Raises:
        UserError: If a class is not in the source.
    """
    if absent := [name for name in classes if name not in found.classes]:
        raise UserError(
            f"--classes: no object is a {some(absent)}; the source has {some(found.classes, 20)}"
        )
    found.classes = list(classes) or found.classes
    kept = []
    for picture in found.pictures:
        try:
            size = size_of(picture.path)
        except (OSError, SyntaxError, Image.DecompressionBombError):
            found.leave_out("images that cannot be read", picture.name)
            continue
        if picture.size and tuple(map(int, picture.size)) != size:
            listed = " x ".join(map(str, picture.size))
            what = f"{picture.name} (annotated as {listed}, read as {size[0]} x {size[1]})"
            found.leave_out("images of another size than annotated", what)
            continue
        picture.size = size
        picture.objects = [item for item in picture.objects if _is_fit(item, picture, found)]
        kept.append(picture)
    found.pictures = kept
    _check_boxes(found)
    if not found.ids:
        found.ids = {name: number for number, name in enumerate(found.classes, 1)}
    without = [p.name for p in kept if not p.objects]
    if without:
        found.notes.append(f"{len(without)} images have no object: {some(without)}")
    objects = [item for picture in kept for item in picture.objects]
    bare = sum(not item.segmentation for item in objects)
    if 0 < bare < len(objects):
        found.notes.append(
            f"{bare} of {len(objects)} objects have a box but no mask: boxes are learnt"
        )


def _check_boxes(found: Found) -> None:
    """Refuse boxes in other units than pixels or of another form, which would train on nonsense."""
    pairs = [(item, picture.size) for picture in found.pictures for item in picture.objects]
    if not pairs:
        return
    expected = f"expected x, y, width and height in pixels, as {found.format} has them"
    if all(max(item.box) <= 1 for item, _ in pairs):
        raise UserError(
            f"no box is larger than a pixel, the first is {pairs[0][0].box}: they look like shares "
            f"of the image; {expected}"
        )
    beyond = ends = 0
    for item, (width, height) in pairs:
        x, y, w, h = item.box
        beyond += x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1
        ends += x < w <= width + 1 and y < h <= height + 1
    if 2 * beyond > len(pairs) == ends:
        raise UserError(
            f"{beyond} of {len(pairs)} boxes reach beyond their image, such as {pairs[0][0].box}: "
            f"they look like two corners, x1, y1, x2 and y2; {expected}"
        )
    outlined = [item for item, _ in pairs if isinstance(item.segmentation, list)]
    apart = [item for item in outlined if _overlap(item.box, _box_of(item.segmentation)) < 0.5]
    if 2 * len(apart) > len(outlined):
        raise UserError(
            f"{len(apart)} of {len(outlined)} boxes are elsewhere than their polygons, such as "
            f"{apart[0].box} beside {_box_of(apart[0].segmentation)}; {expected}"
        )
    if apart:
        found.notes.append(
            f"{len(apart)} of {len(outlined)} boxes are elsewhere than their polygons"
        )
    if beyond:
        found.notes.append(f"{beyond} boxes reach beyond their image: the part inside is learnt")


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over the union of two boxes ``(x, y, width, height)``."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _is_fit(item: Object, picture: Picture, found: Found) -> bool:
    if item.label not in found.classes:
        found.leave_out(f"objects of class {item.label}, not in --classes", picture.name)
        return False
    width, height = picture.size
    if isinstance(item.segmentation, list):
        whole = [part for part in item.segmentation if not any(check_mask([part], height, width))]
        if len(whole) < len(item.segmentation):
            found.leave_out("polygons with too few points, or outside of the image", picture.name)
        item.segmentation = whole or None
    elif item.segmentation and any(check_mask(item.segmentation, height, width)):
        found.leave_out("run-length codes that do not fit the image", picture.name)
        item.segmentation = None
    item.box = item.box or _box_of(item.segmentation)
    if not item.box or len(item.box) != 4 or not all(map(is_number, item.box)):
        found.leave_out("objects without a box of four numbers", picture.name)
        return False
    x, y, w, h = item.box
    if w <= 0 or h <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
        found.leave_out("objects whose box is empty or outside of the image", picture.name)
        return False
    return True


def _box_of(segmentation: list | dict | None) -> list[float] | None:
    if isinstance(segmentation, dict):
        from pycocotools import mask

        return mask.toBbox(_packed(segmentation)).tolist()
    xs = [value for part in segmentation or () for value in part[::2]]
    ys = [value for part in segmentation or () for value in part[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs else None


def _area_of(item: Object) -> float:
    if isinstance(item.segmentation, dict):
        from pycocotools import mask

        return float(mask.area(_packed(item.segmentation)))
    if not item.segmentation:
        return item.box[2] * item.box[3]
    area = 0.0
    for part in item.segmentation:
        points = list(zip(part[::2], part[1::2], strict=True))
        pairs = zip(points, points[1:] + points[:1], strict=True)
        area += abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2
    return area


def _packed(code: dict) -> dict:
    from pycocotools import mask

    return mask.frPyObjects(code, *code["size"]) if isinstance(code["counts"], list) else code


def write_coco(path: Path, found: Found, pictures: Sequence[Picture]) -> None:
    """Write a split; ids of the source are kept where they are unique."""
    own = [picture.entry.get("id") for picture in pictures]
    keep = None not in own and len(set(own)) == len(own)
    images, annotations = [], []
    for number, picture in enumerate(pictures, 1):
        image_id = picture.entry["id"] if keep else number
        width, height = picture.size
        place = {"id": image_id, "file_name": picture.name, "width": width, "height": height}
        images.append({**picture.entry, **place})
        for item in picture.objects:
            area = item.entry.get("area")
            entry = {
                **item.entry,
                "id": len(annotations) + 1,  # from 1: COCOeval takes 0 for "no match"
                "image_id": image_id,
                "category_id": found.ids[item.label],
                "bbox": item.box,
                "area": area if is_number(area) and area > 0 else _area_of(item),
                "iscrowd": item.crowd,
            }
            if item.segmentation:
                entry["segmentation"] = item.segmentation
            annotations.append(entry)
    categories = [{"id": found.ids[name], "name": name} for name in found.classes]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
