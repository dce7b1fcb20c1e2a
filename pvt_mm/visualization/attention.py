"""What the tokens of an image attend to: one map for each stage and head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.registry import MODELS
from torch import Tensor, nn

from pvt_mm.backbones import ARCHS, PVT, PVTv2
from pvt_mm.backbones.attention import LinearSpatialReductionAttention
from pvt_mm.backbones.pvt import MIN_SIZE
from pvt_mm.checkpoints import load_pretrained
from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import load_config
from pvt_mm.errors import UserError, run_tool
from pvt_mm.visualization.figures import save_figure

__all__ = ["AttentionMaps", "attention_maps", "load_backbone", "main", "plot_attention"]

# The papers' preprocessing, of RGB images.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class AttentionMaps(NamedTuple):
    """Where one token of a stage looks.

    Attributes:
        weights: ``(heads, h, w)`` on the map of reduced tokens; those of a head sum to 1.
        area: Height and width in pixels of what that map covers, from the image's upper left
            corner: SRA leaves out rows and columns that fill no reduction window.
        token: ``(x0, y0, side)`` in pixels, the patch of the asking token.
    """

    weights: Tensor
    area: tuple[int, int]
    token: tuple[int, int, int]


@torch.inference_mode()
def attention_maps(
    backbone: PVT | PVTv2, image: Tensor, point: tuple[int, int], block: int = -1
) -> list[AttentionMaps]:
    """Compute the attention of the token at a point, in each stage.

    Args:
        backbone: A PVT, in evaluation mode.
        image: ``(1, 3, h, w)``, normalised.
        point: ``(x, y)`` in pixels of the image.
        block: Which block of each stage; negative ones count from the last.

    Returns:
        One entry for each stage.

    Raises:
        IndexError: If a stage has no such block.
    """
    found = []

    def look(attn: nn.Module, inputs: tuple[Tensor, tuple[int, int]]) -> None:
        tokens, hw = inputs
        stride = 4 * 2 ** len(found)
        x, y = (min(side // stride, last - 1) for side, last in zip(point, hw[::-1], strict=True))
        k, _ = attn.keys_and_values(tokens, hw)
        q = attn.queries(tokens)[0, :, y * hw[1] + x, None]  # (h, 1, d)
        weights = (q @ k[0].transpose(1, 2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        if isinstance(attn, LinearSpatialReductionAttention):
            grid, covered = (attn.pool_size, attn.pool_size), hw
        else:
            grid = tuple(side // attn.sr_ratio for side in hw)
            covered = tuple(side * attn.sr_ratio for side in grid)
        area = tuple(side * stride for side in covered)
        corner = (x * stride, y * stride, stride)
        found.append(AttentionMaps(weights[:, 0].unflatten(1, grid), area, corner))

    stages = [getattr(backbone, f"block{stage + 1}") for stage in range(backbone.num_stages)]
    hooks = [blocks[block].attn.register_forward_pre_hook(look) for blocks in stages]
    try:
        backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def plot_attention(
    pixels: np.ndarray, maps: Sequence[AttentionMaps], point: tuple[int, int]
) -> Figure:
    """Draw one row for each stage: the mean over its heads, then each head over the image.

    Args:
        pixels: ``(h, w, 3)``, RGB, uint8.
        maps: What :func:`attention_maps` returned for that image.
        point: ``(x, y)`` in pixels.
    """
    height, width = pixels.shape[:2]
    columns = 1 + max(len(stage.weights) for stage in maps)
    panel_width = 2.2
    figure = Figure(
        figsize=(panel_width * columns, len(maps) * (panel_width * height / width + 0.35) + 0.3),
        layout="constrained",
    )
    panels = figure.subplots(len(maps), columns, squeeze=False)
    for index, (row, stage) in enumerate(zip(panels, maps, strict=True), start=1):
        titles = ["mean", *(f"head {head}" for head in range(1, len(stage.weights) + 1))]
        weights = [stage.weights.mean(dim=0), *stage.weights]
        for panel in row:
            panel.set_axis_off()
        for panel, title, heat in zip(row, titles, weights, strict=False):
            _overlay(panel, pixels, heat, stage)
            panel.plot(*point, marker="+", color="white", markersize=11, markeredgewidth=3.5)
            panel.plot(*point, marker="+", color="black", markersize=10, markeredgewidth=1.5)
            grid = "x".join(map(str, heat.shape))
            panel.set_title(
                f"stage {index} ({grid}), {title}" if title == "mean" else title, size=8
            )
    return figure


def _overlay(panel: Axes, pixels: np.ndarray, heat: Tensor, stage: AttentionMaps) -> None:
    """Draw attention, each map scaled to its own maximum, over a grey version of the image."""
    height, width = pixels.shape[:2]
    grown = F.interpolate(heat[None, None].float(), size=stage.area, mode="nearest")[0, 0]
    whole = torch.zeros(max(height, stage.area[0]), max(width, stage.area[1]))
    whole[: stage.area[0], : stage.area[1]] = grown / grown.max()
    whole = whole[:height, :width].numpy()
    panel.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    panel.imshow(whole, cmap="viridis", alpha=0.3 + 0.5 * whole, vmin=0, vmax=1)


def load_backbone(model: str, weights: str | None) -> PVT | PVTv2:
    """Build a PVT by its release's name or from a config, and load its weights.

    Args:
        model: A name such as ``pvt_v2_b2``, or a config whose backbone is a PVT.
        weights: A checkpoint of the backbone, or of a detector or segmentor around it; None for
            the release itself, by its name.

    Raises:
        UserError: If the name is unknown, the backbone is none of ours, or weights are missing.
        CheckpointError: If the weights cannot be loaded.
    """
    if model in ARCHS:
        settings, weights = ARCHS[model].config, weights or f"pvt://{model}"
    elif not model.endswith(".py"):
        raise UserError(f"{model} is neither a config nor a model; models are {', '.join(ARCHS)}")
    else:
        settings = {**load_config(model).model.backbone, "init_cfg": None}
        if weights is None:
            raise UserError("--weights: name the checkpoint of the config's model")
    backbone = MODELS.build(settings)
    if not isinstance(backbone, (PVT, PVTv2)):
        raise UserError(f"{model}: the backbone is a {type(backbone).__name__}, not a PVT")
    load_pretrained(backbone, weights)
    return backbone.eval()


def visualize_attention(
    model: str,
    image: str | os.PathLike,
    out: str | os.PathLike,
    *,
    weights: str | None = None,
    point: tuple[int, int] | None = None,
    block: int = -1,
    max_size: int = 1024,
) -> None:
    """Draw what a PVT's heads attend to from one point of an image.

    Args:
        model: See :func:`load_backbone`.
        image: The image file.
        out: The picture to write, PNG.
        weights: See :func:`load_backbone`.
        point: ``(x, y)`` in pixels of the image file; its centre if None.
        block: Which block of each stage.
        max_size: Longer side in pixels that a larger image is reduced to.

    Raises:
        UserError: If the image cannot be read, or point or block do not exist.
        CheckpointError: If the weights cannot be loaded.
    """
    pixels = _read(image)
    height, width = pixels.shape[:2]
    point = point or (width // 2, height // 2)
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise UserError(f"--point {point[0]} {point[1]} is outside the image of {width}x{height}")
    scale = min(1.0, max_size / max(height, width))
    if min(height, width) * scale < MIN_SIZE:
        raise UserError(f"{image}: {width}x{height} is too small; PVT needs {MIN_SIZE} pixels")
    backbone = load_backbone(model, weights)
    fewest = min(len(getattr(backbone, f"block{s + 1}")) for s in range(backbone.num_stages))
    if not -fewest <= block < fewest:
        raise UserError(f"--block {block}: expected {-fewest} to {fewest - 1}")
    pixels = mmcv.imrescale(pixels, scale)
    point = (int(point[0] * scale), int(point[1] * scale))
    normalised = mmcv.imnormalize(pixels, np.array(MEAN), np.array(STD), to_rgb=False)
    batch = torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype(np.float32))
    figure = plot_attention(pixels, attention_maps(backbone, batch, point, block), point)
    save_figure(figure, Path(out))


def _read(path: str | os.PathLike) -> np.ndarray:
    if not Path(path).is_file():
        raise UserError(f"image {path} not found")
    pixels = mmcv.imread(str(path))
    if pixels is None:
        raise UserError(f"{path} cannot be read as an image")
    return mmcv.bgr2rgb(pixels)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/visualize_attention.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "visualize_attention.py",
        "Draw what each head of each stage attends to, from one point of an image.",
    )
    parser.add_argument("model", help="config, or a release such as pvt_v2_b2")
    parser.add_argument("image", help="image file")
    parser.add_argument("--weights", help="checkpoint; for a release pvt://NAME by default")
    parser.add_argument(
        "--point", nargs=2, type=int, metavar=("X", "Y"), help="in pixels; the centre by default"
    )
    parser.add_argument("--block", type=int, default=-1, help="block of each stage; the last")
    parser.add_argument("--max-size", type=int, default=1024, help="longer side in pixels; 1024")
    parser.add_argument("--out", default="attention.png", help="the picture")
    options = parser.options(argv)

    def run() -> None:
        visualize_attention(**options)
        print(f"wrote {options['out']}")

    return run_tool(run)
