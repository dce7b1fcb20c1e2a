"""Detect or segment with an exported ONNX model: numpy, OpenCV and onnxruntime, no PyTorch.

    pip install numpy opencv-python onnxruntime
    python onnx_inference.py MODEL.onnx IMAGE --out picture.png

What is done to the image stands in the model's metadata, which `tools/export.py` writes.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

OPACITY = 0.5


def resize(image: np.ndarray, steps: list[dict]) -> np.ndarray:
    """Resize an ``(h, w, 3)`` image as the steps of the test pipeline do."""
    for step in steps:
        height, width = image.shape[:2]
        if step["type"] == "ResizeToMultiple":
            multiple = step.get("size_divisor", 32)
            size = [-(-side // multiple) * multiple for side in (width, height)]
        elif step["type"] == "Resize" and step.get("keep_ratio"):
            longer, shorter = max(step["scale"]), min(step["scale"])
            factor = min(longer / max(height, width), shorter / min(height, width))
            size = [int(side * factor + 0.5) for side in (width, height)]
        elif step["type"] == "Resize":
            size = step["scale"]
        else:
            raise SystemExit(f"error: the resizing step {step['type']} is not known here")
        image = cv2.resize(image, tuple(size), interpolation=cv2.INTER_LINEAR)
    return image


def prepare(image: np.ndarray, meta: dict) -> tuple[np.ndarray, tuple[int, int]]:
    """Make the network's ``(1, 3, H, W)`` input of an RGB image; also its size before padding."""
    image = resize(image, meta["resize"])
    height, width = image.shape[:2]
    normed = (image - np.float32(meta["mean"])) / np.float32(meta["std"])
    multiple = meta["size_divisor"]
    below, right = -height % multiple, -width % multiple
    padded = np.pad(normed, ((0, below), (0, right), (0, 0)))
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32), (height, width)


def palette(meta: dict, count: int) -> np.ndarray:
    """Return an RGB colour for each class."""
    colours = meta.get("palette") or [
        [int(255 * part) for part in colorsys.hsv_to_rgb(index * 0.618 % 1, 0.8, 1)]
        for index in range(count)
    ]
    return np.uint8(colours)


def paste(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sample a small mask at every pixel centre of an image; outside of the box it is 0."""
    x1, y1, x2, y2 = box
    x = (np.arange(shape[1], dtype=np.float32) + 0.5 - x1) / (x2 - x1) * mask.shape[1] - 0.5
    y = (np.arange(shape[0], dtype=np.float32) + 0.5 - y1) / (y2 - y1) * mask.shape[0] - 0.5
    grid_x, grid_y = np.meshgrid(x, y)
    return cv2.remap(mask, grid_x, grid_y, cv2.INTER_LINEAR, borderValue=0)


def draw_detections(image: np.ndarray, outputs: dict, meta: dict, scale: np.ndarray, limit: float):
    """Print the detections and draw them into the image."""
    classes = meta["classes"]
    colours = palette(meta, len(classes))
    found = outputs["scores"][0] > limit
    boxes = outputs["boxes"][0][found] / scale
    labels, scores = outputs["labels"][0][found], outputs["scores"][0][found]
    masks = outputs["masks"][0][found] if "masks" in outputs else [None] * len(boxes)
    for box, label, score, mask in zip(boxes, labels, scores, masks, strict=True):
        print(f"{classes[label]:12} {score:.3f}  {' '.join(f'{side:.1f}' for side in box)}")
        colour = colours[label]
        if mask is not None:
            inside = paste(mask, box, image.shape[:2]) >= meta["mask_threshold"]
            image[inside] = (1 - OPACITY) * image[inside] + OPACITY * colour
        corners = np.int32(np.round(box))
        line = max(1, round(min(image.shape[:2]) / 300))
        cv2.rectangle(image, corners[:2], corners[2:], colour.tolist(), line)
        size = max(0.35, min(image.shape[:2]) / 1000)
        place = (int(corners[0]) + 2, max(int(corners[1]) + int(28 * size), 10))
        text = f"{classes[label]} {score:.2f}"
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), line + 2)
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour.tolist(), line)


def draw_segmentation(image: np.ndarray, outputs: dict, meta: dict, size: tuple[int, int]):
    """Print the classes' shares of the image and paint them over it."""
    labels = outputs["logits"][0].argmax(0) if "logits" in outputs else outputs["labels"][0]
    labels = labels[: size[0], : size[1]].astype(np.uint8)
    labels = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colours = palette(meta, len(meta["classes"]))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f"{meta['classes'][label]:12} {count / labels.size:.1%}")
    image[:] = (1 - OPACITY) * image + OPACITY * colours[labels]


def main() -> None:
    """Run the model on one image."""
    parser = argparse.ArgumentParser(description="Detect or segment with an exported ONNX model.")
    parser.add_argument("model", help="file that tools/export.py wrote")
    parser.add_argument("image", help="image file")
    parser.add_argument("--out", default="picture.png", help="picture to write")
    parser.add_argument("--score", type=float, default=0.3, help="lowest score that is shown")
    args = parser.parse_args()
    pixels = cv2.imread(args.image)
    if pixels is None:
        sys.exit(f"error: {args.image} cannot be read as an image")
    if not Path(args.model).is_file():
        sys.exit(f"error: there is no file {args.model}")
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    meta = {name: json.loads(value) for name, value in entries.items()}
    if meta.get("task") not in ("detection", "instances", "segmentation"):
        sys.exit(f"error: {args.model} is for {meta.get('task')}; expected a detector or segmentor")
    image = np.ascontiguousarray(pixels[..., ::-1])  # OpenCV reads BGR
    network_input, size = prepare(image, meta)
    inputs = {"images": network_input}
    if meta["task"] != "segmentation":
        inputs["image_sizes"] = np.int64([size])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, inputs), strict=True))
    if meta["task"] == "segmentation":
        draw_segmentation(image, outputs, meta, size)
    else:
        scale = np.float32([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
        draw_detections(image, outputs, meta, scale, args.score)
    if not cv2.imwrite(args.out, image[..., ::-1]):
        sys.exit(f"error: {args.out} cannot be written")


if __name__ == "__main__":
    main()
