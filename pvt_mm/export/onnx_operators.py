"""How :mod:`pvt_mm.export.operators` are written in ONNX."""

import torch
from onnxscript import opset18 as op

from pvt_mm.export import operators  # noqa: F401  defines the operators

__all__ = ["TRANSLATIONS"]


def _suppress(boxes, scores, iou_threshold, score_threshold, max_kept):
    selected = op.NonMaxSuppression(  # (n, 3): image, class, box
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),  # one class
        op.Constant(value_ints=[max_kept]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)  # (n, 2)
    # One for each place, made of the index of its class, which is 0.
    ones = op.Add(
        op.CastLike(op.Gather(selected, op.Constant(value_int=1), axis=1), scores),
        op.Constant(value_float=1.0),
    )
    return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), places, ones)


def _align_rois(feats, rois, levels, scales, size, sampling_ratio):
    count = op.Shape(rois, start=0, end=1)
    channels = op.Shape(feats[0], start=1, end=2)
    side = op.Constant(value_ints=[size])
    shape = op.Concat(count, channels, side, side, axis=0)
    crops = op.Expand(op.Constant(value_float=0.0), shape)
    for level, (feat, scale) in enumerate(zip(feats, scales, strict=True)):
        here = op.Transpose(  # (n, 1)
            op.NonZero(op.Equal(levels, op.Constant(value_int=level))), perm=[1, 0]
        )
        chosen = op.GatherND(rois, here)  # (n, 5)
        cropped = op.RoiAlign(
            feat,
            op.Gather(chosen, op.Constant(value_ints=[1, 2, 3, 4]), axis=1),
            op.Cast(op.Gather(chosen, op.Constant(value_int=0), axis=1), to=7),  # int64
            coordinate_transformation_mode="half_pixel",
            mode="avg",
            output_height=size,
            output_width=size,
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
        )
        crops = op.ScatterND(crops, here, cropped)
    return crops


TRANSLATIONS = {
    torch.ops.pvt_mm.suppress.default: _suppress,
    torch.ops.pvt_mm.align_rois.default: _align_rois,
}
