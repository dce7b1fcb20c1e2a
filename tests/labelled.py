"""Small labelled images, written as several programs write them, and what is true of them."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

COLOURS = {"bolt": (255, 0, 0), "nut": (0, 255, 0)}  # red, green, blue
NAMES = tuple(COLOURS)


@dataclass
class Scene:
    """An image: objects as (name, polygon of n x 2 points in pixels), its split and label map."""

    stem: str
    split: str
    image: np.ndarray
    objects: list = field(default_factory=list)

    @property
    def size(self):
        return self.image.shape[1], self.image.shape[0]

    def boxes(self):
        """Name, x, y, width, height of each object."""
        corners = [(name, points.min(0), points.max(0)) for name, points in self.objects]
        return [(name, *low.tolist(), *(high - low).tolist()) for name, low, high in corners]

    def label_map(self):
        labels = np.zeros(self.image.shape[:2], np.uint8)
        for name, points in self.objects:
            cv2.fillPoly(labels, [points.round().astype(np.int32)], 1 + NAMES.index(name))
        return labels


def make_scenes(count=8, validation=2):
    rng = np.random.default_rng(0)
    scenes = []
    for index in range(count):
        width, height = ((96, 64), (64, 96))[index % 2]
        image = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)
        split = "val" if index >= count - validation else "train"
        scene = Scene(f"IMG_{index:04d}", split, image)
        for place, name in enumerate(NAMES if index % 3 else NAMES[:1]):
            left, top = 5 + 28 * place, int(rng.integers(4, 20))
            points = [[left, top], [left + 20.5, top + 2], [left + 18, top + 24.25]]
            scene.objects.append((name, np.array(points)))
            cv2.fillPoly(image, [np.int32(np.round(points))], COLOURS[name][::-1])
        scenes.append(scene)
    return scenes


def write_images(folder, scenes, suffix=".jpg"):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        cv2.imwrite(str(Path(folder) / (scene.stem + suffix)), scene.image)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def of_split(scenes, split):
    return [scene for scene in scenes if scene.split == split]


def coco(scenes, categories, first_id, prefix=""):
    """COCO's content; ``categories`` are (id, name, parent)."""
    ids = {name: number for number, name, _ in categories}
    images, annotations = [], []
    for number, scene in enumerate(scenes, first_id):
        width, height = scene.size
        name = f"{prefix}{scene.stem}.jpg"
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for (name, points), box in zip(scene.objects, scene.boxes(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + first_id,
                    "image_id": number,
                    "category_id": ids[name],
                    "bbox": list(box[1:]),
                    "segmentation": [points.ravel().tolist()],
                    "area": float(cv2.contourArea(points.astype(np.float32))),
                    "iscrowd": 0,
                    "attributes": {"occluded": False},
                }
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": parent}
            for number, name, parent in categories
        ],
    }


def write_cvat(root, scenes):
    write_images(root / "images", scenes)
    for split, first in (("train", 1), ("val", 101)):
        content = coco(of_split(scenes, split), [(7, "bolt", ""), (3, "nut", "")], first)
        write_json(root / f"annotations/instances_{split}.json", content)


def write_roboflow(root, scenes):
    categories = [(0, "hardware", "none"), (1, "bolt", "hardware"), (2, "nut", "hardware")]
    for split, folder in (("train", "train"), ("val", "valid")):
        write_images(root / folder, of_split(scenes, split))
        content = coco(of_split(scenes, split), categories, 0)
        write_json(root / folder / "_annotations.coco.json", content)


def write_label_studio(root, scenes):
    write_images(root / "images", scenes)
    content = coco(scenes, [(0, "bolt", ""), (1, "nut", "")], 0, prefix="images\\")
    write_json(root / "result.json", content)


def write_voc(root, scenes):
    write_images(root / "JPEGImages", scenes)
    (root / "Annotations").mkdir()
    for scene in scenes:
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(name == 'nut')}</difficult><bndbox>"
            f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>"
            "</object>"
            for name, x, y, w, h in scene.boxes()
        )
        width, height = scene.size
        (root / f"Annotations/{scene.stem}.xml").write_text(
            f"<annotation><filename>{scene.stem}.jpg</filename><size><width>{width}</width>"
            f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
        )
    for split in ("train", "val"):
        lists = root / "ImageSets/Main"
        lists.mkdir(parents=True, exist_ok=True)
        lines = [scene.stem for scene in of_split(scenes, split)]
        (lists / f"{split}.txt").write_text("\n".join(lines))


def write_yolo(root, scenes, polygons=False, data_file=True):
    for scene in scenes:
        place = f"{scene.split}/{scene.stem}"
        for folder in ("images", "labels"):
            (root / folder / scene.split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"{root}/images/{place}.jpg", scene.image)
        lines = []
        for (name, points), (_, x, y, w, h) in zip(scene.objects, scene.boxes(), strict=True):
            pixels = points.ravel() if polygons else np.array([x + w / 2, y + h / 2, w, h])
            shares = pixels / np.resize(scene.size, pixels.shape)
            lines.append(f"{NAMES.index(name)} {' '.join(map(str, shares.tolist()))}")
        (root / f"labels/{place}.txt").write_text("\n".join(lines))
    if data_file:
        folders = "path: .\ntrain: images/train\nval: images/val\n"
        (root / "data.yaml").write_text(folders + "names: {0: bolt, 1: nut}\n")
    else:
        (root / "classes.txt").write_text("bolt\nnut\n")


def write_labelme(root, scenes):
    write_images(root, scenes)
    for index, scene in enumerate(scenes):
        shapes = [
            {"label": name, "points": points.tolist(), "shape_type": "polygon", "group_id": None}
            for name, points in scene.objects
        ]
        shapes.append({"label": "bolt", "points": [[1, 1], [9, 9]], "shape_type": "line"})
        if index == 0:  # one object of each further kind
            inside = io.BytesIO()
            Image.fromarray(np.eye(6, dtype=np.uint8) * 255).save(inside, "PNG")
            mask = base64.b64encode(inside.getvalue()).decode()
            shapes += [
                {"label": "nut", "points": [[50, 40], [60, 52]], "shape_type": "rectangle"},
                {"label": "nut", "points": [[30, 50], [30, 56]], "shape_type": "circle"},
                {
                    "label": "nut",
                    "points": [[70, 40], [75, 45]],
                    "shape_type": "mask",
                    "mask": mask,
                },
            ]
        width, height = scene.size
        content = {"version": "5.4.1", "shapes": shapes, "imagePath": f"{scene.stem}.jpg"}
        content |= {"imageData": None, "imageWidth": width, "imageHeight": height}
        write_json(root / f"{scene.stem}.json", content)


def write_maps(root, scenes, kind, suffix=".jpg"):
    """Images and label maps of numbers, colours, or 0 and 255."""
    for scene in scenes:
        folder = {"train": "training", "val": "validation"}[scene.split]
        write_images(root / "images" / folder, [scene], suffix)
        labels = scene.label_map()
        if kind == "binary":
            labels = np.where(labels > 0, 255, 0).astype(np.uint8)
        if kind == "rgb":
            labels = np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[labels]
        place = root / "annotations" / folder / f"{scene.stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(place)
