"""Data sets of three small images, the second of which is spoilt in one way: a table of cases."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

WIDTH, HEIGHT = 64, 48
PIXELS = WIDTH * HEIGHT
CLASSES = ("disc", "box")
SEG_CLASSES = ("sky", "wall", "road")
NAN, INF = float("nan"), float("inf")
GONE = object()
SQUARE = [4, 4, 24, 4, 24, 24, 4, 24]
LOAD = "dict(type='LoadImageFromFile')"
PACK = "dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='RandomFlip', prob=0.5)"


class Case(NamedTuple):
    """A way to spoil the data set, and what must come of it.

    ``spoil`` changes the files and the content of the annotation file. ``kind`` is what must be
    reported, and nothing else; None: it works like any other. ``at`` says whose ids must be named:
    'annotation', 'image', 'label' or 'file'. ``named`` is part of the message.
    """

    spoil: Callable[[Path, dict], object]
    kind: str | None = None
    at: str = "annotation"
    named: str = ""
    evaluation: bool = False
    masks: bool = True
    reduce_zero_label: bool = False


def noise(seed, shape=(HEIGHT, WIDTH, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def coco_content():
    entry = dict(category_id=1, bbox=[4, 4, 20, 20], area=400, iscrowd=0)
    images = [dict(id=i, file_name=f"{i}.jpg", width=WIDTH, height=HEIGHT) for i in (1, 2, 3)]
    annotations = [dict(entry, id=i, image_id=i, segmentation=[list(SQUARE)]) for i in (1, 2, 3)]
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def write_images(folder):
    folder.mkdir(parents=True)
    for number in (1, 2, 3):
        Image.fromarray(noise(number)).save(folder / f"{number}.jpg")


def coco_place(root, case):
    """Write a COCO data set and a config that has it as both training and validation data."""
    write_images(root / "img")
    content = coco_content()
    case.spoil(root, content)
    file = root / "a.json"
    if not file.exists():  # a case may have written its own
        file.write_text(json.dumps(content))
    load = f"dict(type='LoadAnnotations', with_bbox=True, with_mask={case.masks})"
    write_config(
        root,
        "mmdet",
        f"type='CocoDataset', ann_file='a.json', data_prefix=dict(img='img/'), "
        f"metainfo=dict(classes={CLASSES})",
        f"{LOAD}, {load}, {PACK}, dict(type='PackDetInputs')",
        "filter_cfg=dict(filter_empty_gt=True)",
    )
    return root / "config.py"


def seg_place(root, case):
    """Write a segmentation data set of label maps, and a config."""
    write_images(root / "img")
    (root / "labels").mkdir()
    for number in (1, 2, 3):
        write_labels(
            root, number, noise(number, (HEIGHT, WIDTH)) % len(SEG_CLASSES) + case.reduce_zero_label
        )
    case.spoil(root, {})
    zero = f"reduce_zero_label={case.reduce_zero_label}"
    write_config(
        root,
        "mmseg",
        f"type='BaseSegDataset', data_prefix=dict(img_path='img', seg_map_path='labels'), {zero}, "
        f"metainfo=dict(classes={SEG_CLASSES})",
        f"{LOAD}, dict(type='LoadAnnotations'), {PACK}, dict(type='PackSegInputs')",
        "test_mode=False",
    )
    return root / "config.py"


def write_config(root, scope, dataset, pipeline, train):
    (root / "config.py").write_text(
        f"default_scope = '{scope}'\n"
        "model = dict()\n"
        f"pipeline = [{pipeline}]\n"
        f"dataset = dict(data_root='{root}', pipeline=pipeline, {dataset})\n"
        f"train_dataloader = dict(dataset=dict(**dataset, {train}))\n"
        "val_dataloader = dict(dataset=dict(**dataset, test_mode=True))\n"
    )


def write_labels(root, number, labels):
    Image.fromarray(labels).save(root / "labels" / f"{number}.png")


def image(spoil):
    return lambda root, content: spoil(root / "img" / "2.jpg")


def saved_as(mode, kind, **options):
    """Save the second image in another mode and format, under the same name."""

    def spoil(path):
        picture = Image.open(path).convert("RGB").convert(mode)
        picture.save(path, format=kind, **options)

    return image(spoil)


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return saved_as("RGB", "JPEG", exif=exif)


def resized(width, height):
    """Give the second image another size, in the annotation file too."""

    def spoil(root, content):
        Image.fromarray(noise(0, (height, width, 3))).save(root / "img" / "2.jpg")
        content["images"][1].update(width=width, height=height)
        corners = [0, 0, width, 0, width, height, 0, height]
        box = dict(bbox=[0, 0, width, height], area=width * height, segmentation=[corners])
        content["annotations"][1].update(box)

    return spoil


def cut(path, part=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def cut_late(path):
    """Cut a JPEG so late that decoders fill in what is missing."""
    Image.fromarray(np.repeat(noise(0, (HEIGHT, 1, 3)), WIDTH, 1)).save(path, quality=95)
    data = path.read_bytes()
    path.write_bytes(data[:-6])


def longer(path):
    path.write_bytes(path.read_bytes() + b"x" * 99)


def deep_png(path):
    cv2.imwrite(str(path.with_suffix(".png")), np.full((HEIGHT, WIDTH, 3), 40000, np.uint16))
    path.with_suffix(".png").rename(path)


def cut_png(path):
    Image.open(path).save(path, format="PNG")
    cut(path)


def float_tiff(path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 0.5, np.float32)).save(path, format="TIFF")


def huge_header(path):
    """Write a PNG that says it is 200000 pixels wide and high."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 200000, 200000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def folder_in_place(path):
    path.unlink()
    path.mkdir()


def two_frames(path):
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), grey, np.uint8)) for grey in (10, 200)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def see_through(path):
    picture = Image.open(path).convert("RGBA")
    picture.putalpha(100)
    picture.save(path, format="PNG")


def palette_hole(path):
    Image.open(path).convert("P").save(path, format="PNG", transparency=3)


def changed(entry, changes):
    for name, value in changes.items():
        if value is GONE:
            del entry[name]
        else:
            entry[name] = value


def annotation(**changes):
    return lambda root, content: changed(content["annotations"][1], changes)


def entry(**changes):
    return lambda root, content: changed(content["images"][1], changes)


def content(change):
    return lambda root, whole: change(whole)


def written(data):
    return lambda root, whole: (root / "a.json").write_bytes(data)


def rle(counts, size=(HEIGHT, WIDTH)):
    return annotation(segmentation=dict(size=list(size), counts=counts))


def compressed(*runs):
    """Run lengths as pycocotools compresses them."""
    size = [HEIGHT, WIDTH]
    code = mask_utils.frPyObjects(dict(size=size, counts=list(runs)), *size)
    return code["counts"].decode()


def labels(change):
    """Change the second label map, given as an array; the result is written."""

    def spoil(root, whole):
        array = np.asarray(Image.open(root / "labels" / "2.png")).copy()
        write_labels(root, 2, change(array))

    return spoil


def label_file(spoil):
    return lambda root, whole: spoil(root / "labels" / "2.png")


def with_value(value, dtype=np.uint8):
    def change(array):
        array = array.astype(dtype)
        array[0, 0] = value
        return array

    return labels(change)


def palette_labels(path):
    picture = Image.open(path).copy()
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(path)


SOUND = json.dumps(coco_content())
RGB_LABELS = labels(lambda array: np.stack([array] * 3, -1))

IMAGE_CASES = {
    "sound": Case(lambda root, content: None),
    "missing": Case(image(Path.unlink), "image-missing", "image", "No such file"),
    "a folder": Case(image(folder_in_place), "image-missing", "image", "directory"),
    "zero bytes": Case(image(lambda path: path.write_bytes(b"")), "image-broken", "image", "empty"),
    "a web page": Case(
        image(lambda path: path.write_text("<!DOCTYPE html>")),
        "image-broken",
        "image",
        "starts with b'<!DOCTYPE",
    ),
    "truncated JPEG": Case(image(cut), "image-broken", "image"),
    "JPEG without its end": Case(image(cut_late), "image-broken", "image"),
    "header of a JPEG": Case(image(lambda path: cut(path, 0.05)), "image-broken", "image"),
    "truncated PNG": Case(image(cut_png), "image-broken", "image"),
    "200000 x 200000 PNG": Case(image(huge_header), "image-broken", "image"),
    "float TIFF": Case(image(float_tiff), "image-broken", "image"),
    "PNG called .jpg": Case(saved_as("RGB", "PNG")),
    "BMP called .jpg": Case(saved_as("RGB", "BMP")),
    "WebP called .jpg": Case(saved_as("RGB", "WEBP")),
    "TIFF called .jpg": Case(saved_as("RGB", "TIFF")),
    "grayscale JPEG": Case(saved_as("L", "JPEG")),
    "black and white PNG": Case(saved_as("1", "PNG")),
    "palette PNG": Case(saved_as("P", "PNG")),
    "progressive JPEG": Case(saved_as("RGB", "JPEG", progressive=True)),
    "bytes after the JPEG": Case(
        image(lambda path: path.write_bytes(path.read_bytes() + b"x" * 99))
    ),
    "16-bit PNG": Case(image(deep_png), "image-depth", "image"),
    "CMYK JPEG": Case(saved_as("CMYK", "JPEG"), "image-cmyk", "image"),
    "alpha": Case(image(see_through), "image-alpha", "image"),
    "grey and alpha": Case(saved_as("LA", "PNG"), "image-alpha", "image"),
    "palette with a transparent colour": Case(image(palette_hole), "image-alpha", "image"),
    "animated GIF": Case(image(two_frames), "image-frames", "image", "2 frames"),
    "EXIF 1": Case(turned(1)),
    "EXIF 3": Case(turned(3), "image-exif", "image", "orientation 3"),
    "EXIF 6": Case(turned(6), "image-rotated", "image", "read as 48 x 64, annotated as 64 x 48"),
    "EXIF 6, annotated as seen": Case(
        lambda root, c: (turned(6)(root, c), entry(width=HEIGHT, height=WIDTH)(root, c))
    ),
    "1 x 1": Case(resized(1, 1), "image-tiny", "image"),
    "20000 x 100": Case(resized(20000, 100), "image-narrow", "image"),
    "3000 x 100": Case(resized(3000, 100)),
    "another size": Case(entry(width=100), "image-size", "image", "but 100 x 48 in the annotation"),
    "sides swapped": Case(entry(width=HEIGHT, height=WIDTH), "image-size", "image"),
}

FILE_CASES = {
    "not JSON": Case(written(b"images: 3"), "json", "file"),
    "truncated": Case(written(SOUND.encode()[:200]), "json", "file"),
    "zero bytes": Case(written(b""), "json", "file"),
    "Latin-1": Case(written(SOUND.replace("disc", "d\xefsc").encode("latin-1")), "json", "file"),
    "UTF-16": Case(written(SOUND.encode("utf-16")), "json", "file"),
    "byte order mark": Case(written(SOUND.encode("utf-8-sig")), "json", "file", "byte order mark"),
    "more after the end": Case(written(SOUND.encode() + b"{}"), "json", "file", "Extra data"),
    "nested without end": Case(written(b'{"images": [' + b"[" * 100000), "json", "file"),
    "a list": Case(written(b"[]"), "json-format", "file", "not an object"),
    "no annotations key": Case(
        content(lambda c: c.pop("annotations")), "json-format", "file", "'annotations'"
    ),
    "images are an object": Case(
        content(lambda c: c.update(images={})), "json-format", "file", "'images'"
    ),
    "a key twice": Case(
        written(b'{"categories": [], ' + SOUND.encode()[1:]), "json-format", "file", "twice"
    ),
    "images last": Case(content(lambda c: c.update(images=c.pop("images")))),
    "no images": Case(
        content(lambda c: c.update(images=[], annotations=[])), "no-images", "file", "no images"
    ),
    "no annotations": Case(
        content(lambda c: c.update(annotations=[])), "no-annotations", "file", "no annotations"
    ),
    "no annotations to evaluate on": Case(
        content(lambda c: c.update(annotations=[])), evaluation=True
    ),
    "category without a name": Case(
        content(lambda c: c["categories"][1].pop("name")), "category-entry", "file", "no name"
    ),
    "category id is text": Case(
        content(lambda c: c["categories"][1].update(id="2")), "category-entry", "file", "'2'"
    ),
    "category is a name": Case(
        content(lambda c: c["categories"].append("ring")), "category-entry", "file", "'ring'"
    ),
    "category id twice": Case(
        content(lambda c: c["categories"].append(dict(id=1, name="ring"))),
        "category-twice",
        "file",
        "id 1: 'disc' and 'ring'",
    ),
    "category name twice": Case(
        content(lambda c: c["categories"].append(dict(id=7, name="box"))),
        "category-twice",
        "file",
        "'box'",
    ),
    "categories in another order": Case(
        content(lambda c: c["categories"].reverse()),
        "category-order",
        "file",
        "'disc' (id 1) gets label 1, which is 'box'",
    ),
    "a class more": Case(content(lambda c: c["categories"].append(dict(id=3, name="ring")))),
    "an unused class is missing": Case(content(lambda c: c["categories"].pop(1))),
}

ENTRY_CASES = {
    "image without id": Case(
        lambda root, c: (c["images"].append(dict(c["images"][1])), c["images"][3].pop("id")),
        "image-entry",
        "file",
        "no id",
    ),
    "image is text": Case(content(lambda c: c["images"].append("4.jpg")), "image-entry", "file"),
    "image id is text": Case(
        content(lambda c: c["images"].append(dict(c["images"][1], id="x"))),
        "image-entry",
        "file",
        "id is 'x'",
    ),
    "image id twice": Case(
        content(lambda c: c["images"].append(dict(c["images"][1], file_name="3.jpg"))),
        "image-id-twice",
        "entry",
        "2.jpg and 3.jpg",
    ),
    "image file twice": Case(
        content(lambda c: c["images"].append(dict(c["images"][1], id=4))),
        "image-file-twice",
        "file",
        "2.jpg",
    ),
    "annotation is a number": Case(
        content(lambda c: c["annotations"].append(3)), "annotation-entry", "file", "3"
    ),
    "annotation without id": Case(annotation(id=GONE), "annotation-entry", "entry", "no id"),
    "annotation id is text": Case(
        annotation(id="q"), "annotation-entry", "entry", "id is 'q'", evaluation=True
    ),
    "annotation id twice": Case(annotation(id=1), "annotation-id-twice", "entry"),
    "annotation id 0": Case(annotation(id=0)),
    "annotation id 0 to evaluate": Case(
        annotation(id=0), "annotation-id-zero", "entry", evaluation=True
    ),
    "no image id": Case(annotation(image_id=GONE), "annotation-entry", "", "no image_id"),
    "image id as text": Case(annotation(image_id="2"), "annotation-entry", "", "image_id is '2'"),
    "unknown image": Case(annotation(image_id=99), "unknown-image", "", "no image 99"),
    "no category": Case(annotation(category_id=GONE), "annotation-entry", named="no category_id"),
    "category is a list": Case(annotation(category_id=[1]), "annotation-entry", named="[1]"),
    "unknown category": Case(annotation(category_id=77), "unknown-category", named="77"),
    "crowd": Case(rle([100, 20, PIXELS - 120])),
    "crowd flag": Case(annotation(iscrowd=1)),
    "crowd flag as text": Case(annotation(iscrowd="0"), "crowd-flag", named="'0'"),
    "crowd flag None": Case(annotation(iscrowd=None), "crowd-flag", named="None"),
    "no crowd flag": Case(annotation(iscrowd=GONE)),
    "no crowd flag to evaluate": Case(annotation(iscrowd=GONE), "crowd-flag", evaluation=True),
    "ignored": Case(annotation(ignore=1, bbox=[1])),
    "no box": Case(annotation(bbox=GONE), "box", named="no bbox"),
    "box None": Case(annotation(bbox=None), "box", named="None"),
    "box of 3": Case(annotation(bbox=[1, 2, 3]), "box", named="[1, 2, 3]"),
    "box of 5": Case(annotation(bbox=[1, 2, 3, 4, 5]), "box"),
    "box of text": Case(annotation(bbox=["1", "2", "3", "4"]), "box"),
    "box is text": Case(annotation(bbox="1234"), "box"),
    "box of truth values": Case(annotation(bbox=[True, True, True, True]), "box"),
    "NaN in a box": Case(annotation(bbox=[NAN, 4, 5, 5]), "box", named="[nan, 4, 5, 5]"),
    "all NaN": Case(annotation(bbox=[NAN] * 4), "box"),
    "infinite width": Case(annotation(bbox=[4, 4, INF, 5]), "box"),
    "minus infinity": Case(annotation(bbox=[-INF, 4, INF, 5]), "box"),
    "a number of 400 digits": Case(annotation(bbox=[4, 4, 10**400, 5]), "box"),
    "overflowing sum": Case(annotation(bbox=[1e308, 4, 1.7e308, 5]), "box"),
    "negative width": Case(annotation(bbox=[20, 4, -5, 5]), "box-empty"),
    "zero width": Case(annotation(bbox=[4, 4, 0, 5]), "box-empty"),
    "half a pixel": Case(annotation(bbox=[4, 4, 0.5, 5]), "box-empty"),
    "outside": Case(annotation(bbox=[100, 100, 5, 5]), "box-outside"),
    "left of it": Case(annotation(bbox=[-20, 4, 5, 5]), "box-outside"),
    "partly outside": Case(annotation(bbox=[50, 40, 50, 50]), "box-cut"),
    "a pixel outside": Case(annotation(bbox=[-0.5, 4, 66, 5])),
    "no area": Case(annotation(area=GONE), "area", named="no area"),
    "area as text": Case(annotation(area="400"), "area", named="'400'"),
    "area NaN": Case(annotation(area=NAN), "area"),
    "area 0": Case(annotation(area=0), "area-zero"),
    "negative area": Case(annotation(area=-3), "area-zero"),
    "no width": Case(entry(width=GONE), "image-entry", "image entry", "no width"),
    "width 0": Case(entry(width=0), "image-entry", "image entry", "width is 0"),
    "width as text": Case(entry(width="64"), "image-entry", "image entry", "'64'"),
    "width NaN": Case(entry(width=NAN), "image-entry", "image entry", "nan"),
    "whole float width": Case(entry(width=64.0)),
    "no file name": Case(entry(file_name=GONE), "image-entry", "image entry", "no file_name"),
    "file name None": Case(entry(file_name=None), "image-entry", "image entry", "None"),
    "zero byte in a file name": Case(entry(file_name="2\0.jpg"), "image-entry", "image entry"),
    "image without annotation": Case(content(lambda c: c["annotations"].pop(1))),
}

MASK_CASES = {
    "no segmentation": Case(annotation(segmentation=GONE), "mask-missing"),
    "no segmentation, boxes alone": Case(annotation(segmentation=GONE), masks=False),
    "empty": Case(annotation(segmentation=[]), "mask-missing"),
    "None": Case(annotation(segmentation=None), "mask-missing"),
    "empty polygon": Case(annotation(segmentation=[[]]), "polygon-short"),
    "2 points": Case(annotation(segmentation=[[1, 1, 20, 20]]), "polygon-short"),
    "2 points to evaluate": Case(
        annotation(segmentation=[[1, 1, 20, 20]]), "polygon-short", evaluation=True
    ),
    "odd number": Case(annotation(segmentation=[[1, 1, 20, 1, 20, 20, 3]]), "polygon-short"),
    "one good, one odd": Case(annotation(segmentation=[SQUARE, [1, 1, 1]]), "polygon-short"),
    "crossing itself": Case(annotation(segmentation=[[4, 4, 24, 24, 24, 4, 4, 24]])),
    "two parts": Case(annotation(segmentation=[SQUARE, [30, 30, 40, 30, 40, 40]])),
    "outside": Case(annotation(segmentation=[[100, 9, 120, 9, 120, 20]]), "polygon-outside"),
    "NaN": Case(annotation(segmentation=[[NAN, 4, 24, 4, 24, 24]]), "polygon-numbers", named="nan"),
    "infinity": Case(annotation(segmentation=[[INF, 4, 24, 4, 24, 24]]), "polygon-numbers"),
    "a billion": Case(annotation(segmentation=[[-1e9, 4, 1e9, 4, 24, 24]]), "polygon-numbers"),
    "400 digits": Case(annotation(segmentation=[[10**400, 4, 9, 4, 2, 2]]), "polygon-numbers"),
    "text": Case(annotation(segmentation=[["4", "4", "24", "4", "24", "24"]]), "mask"),
    "None as a number": Case(annotation(segmentation=[[None] * 6]), "mask"),
    "flat": Case(annotation(segmentation=SQUARE), "mask"),
    "points as pairs": Case(annotation(segmentation=[[[4, 4], [9, 4], [9, 9]]]), "mask"),
    "a word": Case(annotation(segmentation="abc"), "mask"),
    "a number": Case(annotation(segmentation=5), "mask"),
    "objects": Case(annotation(segmentation=[dict(a=1)]), "mask"),
    "RLE": Case(rle([100, 20, PIXELS - 120])),
    "compressed RLE": Case(rle(compressed(100, 20, PIXELS - 120))),
    "compressed RLE of many runs": Case(rle(compressed(9, 1000, 2, 7, 1500, 3, PIXELS - 2521))),
    "compressed RLE of another total": Case(
        rle(compressed(100, 20, PIXELS - 119)), "rle-counts", named="add up to 3073, not 3072"
    ),
    "RLE too short": Case(rle([100, 20]), "rle-counts", named="add up to 120, not 3072"),
    "RLE too long": Case(rle([100, 20, 100000]), "rle-counts"),
    "negative run": Case(rle([100, -20, PIXELS - 80]), "rle-counts", named="malformed"),
    "broken run": Case(rle([100.5, 20, PIXELS - 120.5]), "rle-counts", named="malformed"),
    "run as text": Case(rle(["a"]), "rle-counts"),
    "run of 10^12": Case(rle([10**12]), "rle-counts"),
    "RLE of another size": Case(rle([220], (10, 22)), "rle-size", named="[10, 22]"),
    "RLE with sides swapped": Case(rle([PIXELS], (WIDTH, HEIGHT)), "rle-size"),
    "RLE of negative size": Case(rle([PIXELS], (-HEIGHT, -WIDTH)), "rle-size"),
    "size as text": Case(rle([PIXELS], (str(HEIGHT), str(WIDTH))), "rle-size"),
    "compressed RLE that never ends": Case(rle("~~~~~~zz"), "rle-counts", named="malformed"),
    "compressed RLE, cut": Case(
        rle(compressed(100, 20, PIXELS - 120)[:-1]), "rle-counts", named="malformed"
    ),
    "compressed RLE, foreign letters": Case(rle("é€"), "rle-counts", named="malformed"),
    "compressed RLE, empty": Case(rle(""), "rle-counts"),
    "no counts": Case(rle(None), "mask"),
    "no size": Case(annotation(segmentation=dict(counts=[1, 2])), "rle-size", named="None"),
    "crowd of a wrong size": Case(
        annotation(iscrowd=1, segmentation=dict(size=[1, 1], counts=[1])), "rle-size"
    ),
}


def all_maps(change):
    """Change all label maps, given as arrays."""

    def spoil(root, whole):
        for number in (1, 2, 3):
            array = np.asarray(Image.open(root / "labels" / f"{number}.png")).copy()
            write_labels(root, number, change(array).astype(np.uint8))

    return spoil


def all_annotations(**changes):
    return lambda root, whole: [changed(entry, changes) for entry in whole["annotations"]]


def enlarged(root, whole):
    """Give the images 20 times the size, so that the resizing leaves 2 pixels of each object."""
    for number, entry in enumerate(whole["images"], 1):
        size = (20 * HEIGHT, 20 * WIDTH, 3)
        Image.fromarray(noise(number, size)).save(root / "img" / f"{number}.jpg")
        entry.update(width=20 * WIDTH, height=20 * HEIGHT)


# What no single image or annotation shows.
WHOLE_CASES = {
    "all crowds": Case(
        all_annotations(iscrowd=1), "targets-none", "file", "none of 3 annotations", masks=False
    ),
    "all crowds to evaluate": Case(
        all_annotations(iscrowd=1), "targets-none", "file", "3 are crowds", evaluation=True
    ),
    "all ignored": Case(all_annotations(ignore=1), "targets-none", "file", "none of 3 annotations"),
    "crowds and ignored": Case(
        lambda root, c: (
            [entry.update(iscrowd=1) for entry in c["annotations"][:2]],
            c["annotations"][2].update(ignore=1),
        ),
        "targets-none",
        "file",
        "2 are crowds",
    ),
    "all of a class that is not the data set's": Case(
        lambda root, c: (
            c["categories"].append(dict(id=3, name="ring")),
            [entry.update(category_id=3) for entry in c["annotations"]],
        ),
        "targets-none",
        "file",
    ),
    "all tiny": Case(enlarged, "targets-tiny", "file", "3 of 3 objects are under 8 pixels"),
    "a class that no object has": Case(lambda root, c: None, "class-unseen", "file", "box"),
    "a class in another case": Case(
        content(lambda c: c["categories"][0].update(name="Disc")),
        "class-name",
        "file",
        "class 'disc' of the data set is 'Disc' in the file",
    ),
    "a class with a blank": Case(
        content(lambda c: c["categories"][1].update(name="box ")), "class-name", "file", "'box '"
    ),
    "all classes in another case": Case(
        content(lambda c: [entry.update(name=entry["name"].upper()) for entry in c["categories"]]),
        "class-name",
        "file",
        "none of the data set's classes (disc, box) is a category (DISC, BOX)",
        evaluation=True,
    ),
}
SEG_WHOLE_CASES = {
    "masks of 0 and 255": Case(
        all_maps(lambda array: np.where(array > 0, 255, 0)),
        "targets-one-class",
        "set",
        "only 'sky' is in the label maps of all 3 samples; their values are 0, 255, of which 255",
    ),
    "masks of 0 and 255 to evaluate": Case(
        all_maps(lambda array: np.where(array > 0, 255, 0)),
        "targets-one-class",
        "set",
        evaluation=True,
    ),
    "one value": Case(all_maps(np.ones_like), "targets-one-class", "set", "only 'wall'"),
    "nothing": Case(
        all_maps(lambda array: np.full_like(array, 255)), "targets-none", "set", "every pixel"
    ),
    "a class that no pixel has": Case(
        all_maps(lambda array: array % 2),
        "class-unseen",
        "set",
        "1 of 3 classes have no pixel in all",
    ),
    "classes from 0, zero reduced": Case(
        all_maps(lambda array: array - 1),
        "targets-maybe-shifted",
        "set",
        "0 is ignored, 1 is 'sky', 2 is 'wall', 3 is 'road'",
        reduce_zero_label=True,
    ),
    "half ignored": Case(
        all_maps(lambda array: np.where(np.arange(WIDTH) < WIDTH // 2, 255, array)),
        "targets-ignored",
        "set",
        "50%",
    ),
}

SEG_CASES = {
    "sound": Case(lambda root, content: None),
    "255 is ignored": Case(with_value(255)),
    "missing": Case(label_file(Path.unlink), "label-missing", "label"),
    "truncated": Case(label_file(cut), "label-broken", "label"),
    "zero bytes": Case(label_file(lambda path: path.write_bytes(b"")), "label-broken", "label"),
    "value 3 of 3 classes": Case(with_value(3), "label-value", "label", "3 (1 pixels)"),
    "value 254": Case(with_value(254), "label-value", "label", "254"),
    "zero reduced": Case(with_value(3), reduce_zero_label=True),
    "zero reduced, value 4": Case(with_value(4), "label-value", "label", reduce_zero_label=True),
    "zero reduced, value 254": Case(
        with_value(254), "label-value", "label", reduce_zero_label=True
    ),
    "16 bits, small values": Case(with_value(2, np.uint16)),
    "16 bits, value 300": Case(with_value(300, np.uint16), "label-value", "label", "0 to 300"),
    "colour": Case(RGB_LABELS, "label-colour", "label", "3 channels"),
    "palette": Case(label_file(palette_labels)),
    "black and white": Case(labels(lambda array: array > 0)),
    "another size": Case(
        labels(lambda array: array[:-9]), "label-size", "label", "64 x 39, image 64 x 48"
    ),
    "nothing labelled": Case(
        labels(lambda array: np.full_like(array, 255)), "label-ignored", "label"
    ),
    "another suffix": Case(
        image(lambda path: path.rename(path.with_suffix(".jpeg"))),
        "image-left-out",
        "set",
        "1 images are not used (1 .jpeg), for img_suffix is '.jpg': 2.jpeg",
    ),
    "another case of the suffix": Case(
        image(lambda path: path.rename(path.with_suffix(".JPG"))),
        "image-left-out",
        "set",
        "(1 .JPG), for img_suffix is '.jpg': 2.JPG",
    ),
    "image missing": Case(image(Path.unlink), "label-left-over", "labels", "1 label maps"),
    "image truncated": Case(image(cut), "image-broken", "image"),
}


def with_evaluator(root, change):
    """Write a COCO data set, and beside its config's file one for the evaluator, changed."""
    config = coco_place(root, Case(lambda root, content: None))
    content = coco_content()
    change(content)
    (root / "truth.json").write_text(json.dumps(content))
    evaluator = f"val_evaluator = dict(type='CocoMetric', ann_file='{root / 'truth.json'}')\n"
    config.write_text(config.read_text() + evaluator)
    return config


def other_ids(content):
    for entry in content["images"]:
        entry["id"] += 100
    for entry in content["annotations"]:
        entry["image_id"] += 100


def other_files(content):
    """The same ids, of another split."""
    for entry in content["images"]:
        entry["file_name"] = f"train_{entry['file_name']}"


# How an evaluator's file may differ from the data set's, and what is said of it.
EVALUATOR_CASES = {
    "the same": (lambda c: None, None),
    "other ids": (other_ids, "image 1 of {root}/a.json, '1.jpg', is not in it"),
    "other files": (other_files, "image 1 of {root}/a.json, '1.jpg', is 'train_1.jpg' in it"),
    "swapped files": (
        lambda c: [e.update(file_name=f"{4 - e['id']}.jpg") for e in c["images"]],
        "image 1 of {root}/a.json, '1.jpg', is '3.jpg' in it",
    ),
    "one image more": (
        lambda c: c["images"].append(dict(c["images"][0], id=9, file_name="9.jpg")),
        "1 images that are not in {root}/a.json, such as '9.jpg'",
    ),
    "one image less": (lambda c: c["images"].pop(), "image 3 of {root}/a.json, '3.jpg', is not"),
    "other boxes": (
        lambda c: c["annotations"][1].update(bbox=[1, 2, 3, 4]),
        "2 objects that it and {root}/a.json do not share",
    ),
    "other order": (
        lambda c: c["categories"].reverse(),
        "categories box, disc, but classes disc, box of {root}/a.json",
    ),
    "other numbers of the categories": (
        lambda c: (
            [entry.update(id=entry["id"] + 5) for entry in c["categories"]],
            [entry.update(category_id=6) for entry in c["annotations"]],
        ),
        None,
    ),
    "another case": (
        lambda c: c["categories"][0].update(name="Disc"),
        "categories box, but classes disc, box",
    ),
    "a class less": (lambda c: c["categories"].pop(), "categories disc, but classes disc, box"),
    "a category more": (lambda c: c["categories"].insert(0, dict(id=8, name="ring")), None),
}
