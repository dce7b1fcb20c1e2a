"""The names of ImageNet's classes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["imagenet_classes"]


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Name the 1000 classes of ImageNet-1k in the order of the released classifiers' outputs.

    Returns:
        WordNet's lemmas of each class's synset, such as ``'tench, Tinca tinca'``. Four names stand
        for two classes each (crane, the bird and the machine; maillot), as in WordNet.
    """
    text = files("pvt_mm.classification").joinpath("imagenet_classes.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(line.split(" ", 1)[1] for line in lines)  # after the synset's identifier
