"""What mm's networks return, as results."""

from __future__ import annotations

from mmengine.structures import BaseDataElement

from pvt_mm.errors import UserError
from pvt_mm.inference.tiles import Tile
from pvt_mm.results import Colour, Detection, objects_of

__all__ = ["detection"]


def detection(
    sample: BaseDataElement,
    class_names: tuple[str, ...],
    palette: tuple[Colour, ...],
    tile: Tile,
    size: tuple[int, int],
    score_thr: float,
) -> Detection:
    """Return the objects of an image or of one of its tiles, in pixels of the image.

    Args:
        sample: What a detector returns for the tile.
        class_names: The classes that it knows.
        palette: Their colours.
        tile: The tile's place.
        size: ``(H, W)`` of the image.
        score_thr: Objects of a lower score are left out.

    Raises:
        UserError: If the network is not one that finds objects.
    """
    if "pred_instances" not in sample:
        raise UserError("the network predicts no objects with boxes or masks of their own")
    corner = tile.x.start, tile.y.start
    return objects_of(sample.pred_instances, class_names, palette, size, corner, score_thr)
