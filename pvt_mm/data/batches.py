"""Whether a config's network takes the images and labels that its pipeline leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmengine.config import Config

from pvt_mm.config.loading import walk
from pvt_mm.data.checks import IGNORED, Finding
from pvt_mm.data.padding import (
    LEAST,
    has_pvt,
    network_config,
    padded_size,
    picks_queries,
    preprocessor_config,
    preprocessor_kind,
    token_count,
)
from pvt_mm.data.targets import Targets

__all__ = ["check_batches"]


def check_batches(cfg: Config, split: str, targets: Targets) -> Iterator[Finding]:
    """Check samples of a data set against the model.

    Args:
        cfg: The whole config.
        split: Of 'train', 'val' and 'test'.
        targets: What some samples of it hold.

    Yields:
        What does not fit.
    """
    yield from _check_channels(cfg, targets)
    padded = {size: padded_size(size, cfg, split) for size in targets.sizes}
    if None in padded.values():
        return
    for size, (height, width) in padded.items():
        if min(height, width) < LEAST and has_pvt(cfg):
            found = f"{width} x {height} pixels reach the network"
            yield Finding("image-small", found, targets.sizes[size])
            break
    yield from _check_queries(cfg, padded, targets)
    batch = cfg[f"{split}_dataloader"].get("batch_size", 1)
    # mmseg compares sizes before it pads, except in training.
    sizes = set(padded.values() if split == "train" else padded)
    is_tta = "module" in cfg.model  # the sizes are those of one image's views, too
    is_segmentor = preprocessor_kind(cfg) == "SegDataPreProcessor"
    if is_segmentor and batch > 1 and len(sizes) > 1 and not is_tta:
        shown = " and ".join(f"{w} x {h}" for h, w in sorted(sizes)[:2])
        found = f"batches of {batch}, but images of {shown} after the pipeline"
        yield Finding("batch-sizes", found, next(iter(targets.sizes.values())))
    if split == "train" and is_segmentor:
        yield from _check_ignored(cfg, targets, any(size != padded[size] for size in padded))


def _check_queries(cfg: Config, padded: Mapping, targets: Targets) -> Iterator[Finding]:
    network = network_config(cfg)
    if not padded or not picks_queries(network) or not has_pvt(cfg):
        return
    queries = network.get("num_queries", 0)
    size = min(padded, key=lambda size: token_count(network, padded[size]))
    if (tokens := token_count(network, padded[size])) < queries:
        height, width = padded[size]
        found = f"{width} x {height} pixels make {tokens} tokens, model.num_queries is {queries}"
        yield Finding("image-queries", found, targets.sizes[size])


def _check_channels(cfg: Config, targets: Targets) -> Iterator[Finding]:
    means = len(preprocessor_config(cfg).get("mean") or ())
    backbone = network_config(cfg).get("backbone") or {}
    wanted = backbone.get("in_channels", 3) if has_pvt(cfg) else None
    for channels, path in targets.channels.items():
        found = f"the pipeline leaves {channels} channels"
        if wanted not in (None, channels):
            yield Finding("image-channels", f"{found}, model.backbone takes {wanted}", path)
        elif means not in (0, 1, channels):
            found += f", model.data_preprocessor has {means} means"
            yield Finding("image-channels", found, path)


def _weighs_classes(loss: Mapping) -> bool:
    """Whether it is mmseg's CrossEntropyLoss with weights: it looks up that of ignored pixels."""
    is_softmax = not loss.get("use_sigmoid")
    kind = str(loss.get("type")).removeprefix("mmseg.")
    return kind == "CrossEntropyLoss" and is_softmax and bool(loss.get("class_weight"))


def _check_ignored(cfg: Config, targets: Targets, is_padded: bool) -> Iterator[Finding]:
    """Check that what is no class in the label maps, and only that, is what each head ignores."""
    values = {int(value) for value in targets.pixels.nonzero()[0]}
    if is_padded and values:
        values.add(preprocessor_config(cfg).get("seg_pad_val", IGNORED))
    for path, head in walk(cfg.model, "model"):
        count = head.get("num_classes")
        if not isinstance(count, int) or count < 2:
            continue
        ignored = head.get("ignore_index", IGNORED)
        if ignored in values and ignored < count:
            found = f"{path}.ignore_index is {ignored}, the number of a class in the label maps"
            yield Finding("targets-ignored-class", found)
        losses = [loss for _, loss in walk(head.get("loss_decode"))]
        if ignored in values and any(map(_weighs_classes, losses)):
            found = f"{path}.loss_decode has class_weight, and pixels of {ignored} are ignored"
            yield Finding("targets-weighted", found)
        if other := sorted(value for value in values if value >= count and value != ignored):
            found = (
                f"{other[0]} in the label maps after the pipeline and its padding is no class, and "
                f"{path}.ignore_index is {ignored}"
            )
            yield Finding("targets-not-ignored", found)
