"""Where a model counts classes, and whether that is as many as its data have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from pvt_mm.config.loading import walk
from pvt_mm.data.checks import Finding
from pvt_mm.data.dataset_sources import Source
from pvt_mm.data.padding import preprocessor_config, preprocessor_kind
from pvt_mm.wording import some

__all__ = ["check_model", "count_classes"]

# Heads that count something else than the data set's classes.
OTHER_HEADS = ("rpn_head", "semantic_head")


def check_model(cfg: Config, source: Source) -> Iterator[Finding]:
    """Check that a config's model fits a data set's classes.

    Yields:
        What does not.
    """
    classes = source.classes
    heads = [
        (path, node)
        for path, node in walk(cfg.model, "model")
        # An own count is a plain number of the head itself, not of its loss.
        if path.rpartition(".")[2].split("[")[0].endswith("_head")
        and not path.endswith(OTHER_HEADS)
    ]
    # A panoptic model's boxes and masks are of things only.
    panoptic = [node for _, node in heads if _class_count(node) == len(classes)]
    things = {node.get("num_things_classes") for node in panoptic}
    for path, node in heads:
        count = _class_count(node)
        if classes and count is not None and count not in (len(classes), *things):
            name = "num_classes" if "num_classes" in node else "num_things_classes and stuff"
            found = (
                f"{path}.{name} is {count}, but {source.where} has {len(classes)} classes "
                f"({some(classes)})"
            )
            yield Finding("model-classes", found)
    means = len(preprocessor_config(cfg).get("mean") or ())
    if preprocessor_kind(cfg) == "DetDataPreprocessor" and means not in (0, 1, 3):
        found = f"model.data_preprocessor has {means} means, a DetDataPreprocessor takes 1 or 3"
        yield Finding("image-channels", found)
    for path, head in walk(cfg.model, "model"):
        count, loss = _class_count(head), head.get("loss_decode") or head.get("loss_cls")
        for node in loss if isinstance(loss, (list, tuple)) else [loss]:
            weights = (node or {}).get("class_weight")
            if count is None or not isinstance(weights, (list, tuple)):
                continue
            # A softmax of boxes has one class more, for what is no object.
            extra = "loss_cls" in head and not node.get("use_sigmoid")
            # Of a decode head these are scores, of a transformer's head something else.
            scores = head.get("out_channels") if "loss_decode" in head else None
            wanted = scores or count + extra
            if len(weights) != wanted:
                found = f"{path} has {len(weights)} weights in class_weight for {wanted} classes"
                yield Finding("class-weight", found)
    # A data set may know more about itself, as a classifier's does.
    find_problem = getattr(source.dataset, "find_problem", None)
    if find_problem and (problem := find_problem(cfg.model)):
        yield Finding("model-classes", problem)


def _class_count(head: Mapping) -> int | None:
    """Return how many classes a head tells apart; None if it does not count them."""
    if "num_things_classes" in head:
        return head["num_things_classes"] + (head.get("num_stuff_classes") or 0)
    count = head.get("num_classes")
    return count if isinstance(count, int) else None


def count_classes(model: Mapping) -> dict[str, Any]:
    """Write the number of classes wherever a model has it, for a config that inherits the model.

    Returns:
        Source code in a tree of keys; of it, ``classes`` is a name of the config.
    """
    tree: dict = {}
    for path, node in walk(model):
        values = _counts(node)
        if not values or path.endswith(OTHER_HEADS):
            continue
        *parents, name = path.split(".")
        place = tree
        for part in parents:
            place = place.setdefault(part, {})
        name, listed, _ = name.partition("[")
        if listed:  # a list replaces that of the base as a whole
            arguments = ", ".join(f"{key}={value}" for key, value in values.items())
            base = ".".join(("_base_.model", *parents, name))
            place[name] = f"[dict(head, {arguments}) for head in {base}]"
        else:
            place.setdefault(name, {}).update(values)
    return tree


def _counts(node: Mapping) -> dict[str, str]:
    if isinstance(node.get("num_classes"), int):
        return {"num_classes": "len(classes)"}
    if "num_things_classes" in node:
        return {"num_things_classes": "len(classes)", "num_stuff_classes": "0"}
    weights = node.get("class_weight")
    if isinstance(weights, (list, tuple)):  # the last is that of no object
        return {"class_weight": f"[{weights[0]}] * len(classes) + [{weights[-1]}]"}
    return {}
