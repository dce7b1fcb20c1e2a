"""Synthetic scenes: textured shapes that occlude each other, with their exact masks.

Everything here is arithmetic on arrays; nothing is read or written. A scene depends on its seed
and size alone.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["CLASSES", "Scene", "make_scene"]

# Shape legend: S side of the square image, K number of objects.

CLASSES = ("disc", "box", "triangle", "star", "ring")

RADII = (0.11, 0.36)  # of an object, as a fraction of the image's side
NUM_OBJECTS = (3, 8)
MIN_INSIDE = 0.7  # of an object's area within the image
MIN_VISIBLE = 0.6  # of an object's area, once all others are painted
MIN_PIXELS = 24
TILT = 0.35  # of an object at most, in radians: things stand upright, more or less
SHADOW = 0.03  # offset, as a fraction of the image's side
STAR_NOTCH = 0.45  # inner radius of a star whose points lie at 1
RING_HOLE = 0.55


@dataclass(frozen=True)
class Scene:
    """One picture and what is visible in it.

    Attributes:
        image: RGB, uint8, ``(S, S, 3)``.
        labels: Index into ``CLASSES`` per object, ``(K,)``.
        masks: Visible pixels per object, bool, ``(K, S, S)``; no two overlap.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


# Depth of a point inside a shape of circumradius 1 around the origin: positive inside, negative
# outside, in units of that radius.
def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1 - np.hypot(u, v)


def _box(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(0.5) - np.maximum(abs(u), abs(v))


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    slope = np.sqrt(0.75)
    return 0.5 - np.maximum(v, slope * abs(u) - 0.5 * v)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Fold all ten half points onto one, whose edge runs from the tip (1, 0) to the notch.
    half = np.pi / 5
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    angle = abs((angle + half) % (2 * half) - half)
    edge = np.array([np.cos(half), np.sin(half)]) * STAR_NOTCH - np.array([1.0, 0.0])
    normal = np.array([edge[1], -edge[0]]) / np.linalg.norm(edge)
    return normal[0] * (1 - radius * np.cos(angle)) - normal[1] * radius * np.sin(angle)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u, v)
    return np.minimum(1 - radius, radius - RING_HOLE)


_DEPTH: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
}


# A texture maps points to the weight of the second of two colours, 0 to 1.
def _stripes(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return _sharpen(np.sin(u * rng.uniform(5, 11)))


def _checks(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    frequency = rng.uniform(4, 8)
    return _sharpen(np.sin(u * frequency) * np.sin(v * frequency))


def _dots(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    frequency = rng.uniform(6, 11)
    return _sharpen(np.cos(u * frequency) + np.cos(v * frequency) - 0.9)


def _gradient(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return np.clip((u + 1) / 2, 0, 1)


def _clouds(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    waves = np.zeros_like(u)
    for octave in range(1, 6):
        for angle, phase in rng.uniform(0, 2 * np.pi, (3, 2)):
            along = u * np.cos(angle) + v * np.sin(angle)
            waves += np.sin(along * 2.2 * octave + phase) / octave
    return np.clip(0.5 + waves / 5, 0, 1)


def _grain(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return rng.uniform(0, 1, u.shape)


_TEXTURES = (_stripes, _checks, _dots, _gradient, _clouds, _grain)


def _sharpen(wave: np.ndarray) -> np.ndarray:
    """A wave around 0 as a step from 0 to 1 that is not quite hard."""
    return np.clip(0.5 + 3 * wave, 0, 1)


def _colour(rng: np.random.RandomState, saturation: float, value: float) -> np.ndarray:
    """A random hue, as RGB in 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), saturation, value))


def _paint(texture: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``(S, S)`` weights as ``(S, S, 3)`` colours."""
    return first + texture[..., None] * (second - first)


def _rotated(u: np.ndarray, v: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)


def _background(x: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Two related, pale or dark colours under one of the textures, softly lit."""
    size = len(x)
    u, v = _rotated(2 * x / size - 1, 2 * y / size - 1, rng.uniform(0, 2 * np.pi))
    value = rng.choice([rng.uniform(0.25, 0.45), rng.uniform(0.7, 0.95)])
    first = _colour(rng, rng.uniform(0.05, 0.35), value)
    second = np.clip(first + rng.uniform(-0.13, 0.13, 3), 0, 1)
    texture = _TEXTURES[rng.randint(len(_TEXTURES))](u * 1.5, v * 1.5, rng)
    return _paint(texture, first, second) * (1 + 0.12 * u[..., None])


@dataclass(frozen=True)
class _Object:
    """A shape at its place; ``centre`` and ``radius`` in pixels, ``angle`` in radians."""

    label: int
    centre: np.ndarray
    radius: float
    angle: float
    stretch: float

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels in the shape's own frame, in units of its radius."""
        u = (x - self.centre[0]) / self.radius
        v = (y - self.centre[1]) / self.radius
        u, v = _rotated(u, v, self.angle)
        return u * self.stretch, v / self.stretch

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance to the outline, about in pixels; positive inside."""
        return _DEPTH[CLASSES[self.label]](*self.local(x, y)) * self.radius


def _place(size: int, rng: np.random.RandomState) -> _Object:
    low, high = np.log(RADII)
    return _Object(
        label=rng.randint(len(CLASSES)),
        centre=rng.uniform(0, size, 2),
        radius=size * np.exp(rng.uniform(low, high)),
        angle=rng.uniform(-TILT, TILT),
        stretch=rng.uniform(0.85, 1.18),
    )


def _arrange(
    x: np.ndarray, y: np.ndarray, rng: np.random.RandomState
) -> tuple[list[_Object], np.ndarray]:
    """Objects from back to front, and their visible masks ``(K, S, S)``.

    A proposal is dropped if it leaves the image too far or hides too much of another.
    """
    size = len(x)
    # The plane around the image, to measure how much of a shape lies outside.
    wide_y, wide_x = np.mgrid[-size // 2 : size + size // 2, -size // 2 : size + size // 2]
    proposals = [_place(size, rng) for _ in range(rng.randint(NUM_OBJECTS[0], NUM_OBJECTS[1] + 1))]
    # Small ones in front, mostly: the other way round they would vanish.
    proposals.sort(key=lambda thing: -thing.radius * rng.uniform(0.6, 1.6))
    objects: list[_Object] = []
    visible: list[np.ndarray] = []
    whole: list[int] = []
    for thing in proposals:
        mask = thing.depth(x, y) > 0
        area = int((thing.depth(wide_x, wide_y) > 0).sum())
        if mask.sum() < max(MIN_PIXELS, MIN_INSIDE * area):
            continue
        left = [below & ~mask for below in visible]
        if any(
            rest.sum() < max(MIN_PIXELS, MIN_VISIBLE * area_below)
            for rest, area_below in zip(left, whole, strict=True)
        ):
            continue
        objects.append(thing)
        visible = [*left, mask]
        whole.append(area)
    return objects, np.array(visible, dtype=bool).reshape(-1, size, size)


def _draw(
    canvas: np.ndarray,
    thing: _Object,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.RandomState,
) -> np.ndarray:
    """The canvas, RGB in 0 to 1, with one more object and its shadow on top."""
    offset = SHADOW * len(x)
    shadow = np.clip(thing.depth(x - offset, y - offset) / 3 + 0.5, 0, 1)
    canvas = canvas * (1 - 0.35 * shadow[..., None])

    first = _colour(rng, rng.uniform(0.5, 0.95), rng.uniform(0.6, 1.0))
    second = _colour(rng, rng.uniform(0.1, 0.9), rng.uniform(0.15, 1.0))
    u, v = thing.local(x, y)
    texture = _TEXTURES[rng.randint(len(_TEXTURES))](u, v, rng)
    colours = _paint(texture, first, second)

    depth = thing.depth(x, y)
    light = 1.05 - 0.2 * (x - thing.centre[0] + y - thing.centre[1]) / (2 * thing.radius)
    rim = np.where(depth < 1.5, 0.6, 1.0)
    colours = colours * (light * rim)[..., None]
    alpha = np.clip(depth + 0.5, 0, 1)[..., None]
    return canvas * (1 - alpha) + np.clip(colours, 0, 1) * alpha


def make_scene(seed: tuple[int, ...], size: int) -> Scene:
    """Draw the scene that belongs to a seed.

    Args:
        seed: Non-negative integers. Equal seeds give equal scenes.
        size: Side of the square image, in pixels.

    Raises:
        ValueError: If ``size < 64``, where the smallest objects would be specks.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64, but got {size}")
    rng = np.random.RandomState(seed)  # its stream is frozen, unlike that of numpy's Generator
    y, x = np.mgrid[:size, :size].astype(np.float64)
    objects: list[_Object] = []
    while not objects:
        objects, masks = _arrange(x, y, rng)
    canvas = _background(x, y, rng)
    for thing in objects:
        canvas = _draw(canvas, thing, x, y, rng)
    canvas = canvas + rng.normal(0, 0.015, canvas.shape)
    image = np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
    return Scene(image, np.array([thing.label for thing in objects]), masks)
