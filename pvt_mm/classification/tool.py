"""What a classifier makes of images: in seconds, whether weights arrived whole."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import torch

from pvt_mm.backbones import ARCHS
from pvt_mm.backbones.pvt import MIN_SIZE
from pvt_mm.checkpoints import CheckpointError, map_classifier, recognise_arch
from pvt_mm.checkpoints.pretrained import fill_pretrained
from pvt_mm.checkpoints.schemes import read_once
from pvt_mm.classification import PVTClassifier, imagenet_classes
from pvt_mm.classification.transforms import CenterCrop, read_rgb, to_pixels
from pvt_mm.cli import CommandLine
from pvt_mm.devices import choose_device
from pvt_mm.errors import UserError, run_tool

__all__ = ["Guess", "classify", "load_classifier", "main"]

TOP = 5


class Guess(NamedTuple):
    """One class that an image may be of, with its probability from 0 to 1."""

    index: int
    name: str
    probability: float


def load_classifier(
    weights: str, arch: str | None = None, device: str | torch.device = "cpu"
) -> tuple[PVTClassifier, tuple[str, ...]]:
    """Build the classifier whose weights a checkpoint holds, head included, and load them all.

    Args:
        weights: A file, a URL or an alias such as ``pvt://pvt_small``.
        arch: Name of the release, such as ``'pvt_small'``; recognised by the weights if None.
        device: Where the network goes.

    Returns:
        The network, in evaluation mode, and its classes' names: ImageNet's if it has 1000, else
        those that the checkpoint's training noted, else their indices.

    Raises:
        UserError: If the architecture is unknown or cannot be recognised.
        CheckpointError: If the weights cannot be had, are no classifier's or do not fit.
    """
    if arch is not None and arch not in ARCHS:
        raise UserError(f"--arch {arch} is unknown; known are {', '.join(ARCHS)}")
    checkpoint = read_once(weights)
    try:
        state = map_classifier(checkpoint).state_dict
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    arch = arch or recognise_arch(state)
    if arch is None:
        raise UserError(
            f"{weights} has the shapes of no released model; a model of your own is tested by "
            f"tools/test.py and its config. Released are {', '.join(ARCHS)}"
        )
    if "head.weight" not in state:
        raise CheckpointError(
            f"{weights} looks like {arch}, but holds no classifier's head (head.weight), as the "
            "official releases do: it is a backbone's or a detector's checkpoint"
        )
    num_classes = state["head.weight"].shape[0]
    model = PVTClassifier(ARCHS[arch].config, num_classes)
    fill_pretrained(model, checkpoint, weights)
    return model.to(device).eval(), _class_names(checkpoint, num_classes)


def _class_names(checkpoint: Any, num_classes: int) -> tuple[str, ...]:
    if num_classes == len(imagenet_classes()):
        return imagenet_classes()
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    noted = ((meta or {}).get("dataset_meta") or {}).get("classes") or ()
    if len(noted) == num_classes:
        return tuple(str(name) for name in noted)
    return tuple(f"class {index}" for index in range(num_classes))


@torch.inference_mode()
def classify(
    model: PVTClassifier, names: Sequence[str], path: str, size: int = 224, top: int = TOP
) -> list[Guess]:
    """Classify one image: shorter side to ``size / 0.875`` pixels, centre crop of ``size``.

    Args:
        model: The network, in evaluation mode.
        names: Its classes' names.
        path: The image file.
        size: Side of the crop, in pixels.
        top: How many classes to name.

    Returns:
        The classes of highest probability, highest first.

    Raises:
        ValueError: If the image cannot be read.
    """
    pixels = to_pixels(CenterCrop(size).crop(read_rgb(path)))
    batch = model.data_preprocessor({"inputs": pixels[None]})
    probabilities = model(batch["inputs"]).softmax(dim=1)[0]
    if not probabilities.isfinite().all():
        raise ValueError(f"{path}: the network computes no numbers; are the weights broken?")
    values, indices = probabilities.topk(min(top, len(names)))
    return [
        Guess(index, names[index], value)
        for index, value in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def run_classify(
    images: Sequence[str],
    weights: str,
    arch: str | None = None,
    size: int = 224,
    device: str | None = None,
) -> Iterator[str]:
    """Yield the lines of ``tools/classify.py``; what is wrong with an image goes to stderr.

    Raises:
        UserError: At the end, if an image could not be read; at once, if an option is wrong.
        CheckpointError: If the weights cannot be loaded.
    """
    if size < MIN_SIZE:
        raise UserError(f"--size must be at least {MIN_SIZE} pixels, got {size}")
    with redirect_stdout(sys.stderr):  # the log; stdout is for the result
        model, names = load_classifier(weights, arch, choose_device(device))
    unread = 0
    for path in images:
        try:
            guesses = classify(model, names, path, size)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            unread += 1
            continue
        for rank, guess in enumerate(guesses, start=1):
            yield f"{path}  {rank}  {guess.probability:6.1%}  {guess.name}"
    if unread:
        raise UserError(f"{unread} of {len(images)} images could not be classified")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/classify.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine("classify.py", "Print the top five classes of images.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file")
    parser.add_argument(
        "--weights", required=True, help="a classifier: a file, a URL, or pvt://pvt_small"
    )
    parser.add_argument("--arch", help="model, as pvt_v2_b2; recognised by the weights otherwise")
    parser.add_argument("--size", type=int, default=224, help="side of the crop, in pixels (224)")
    parser.add_device()
    options = parser.options(argv)

    def run() -> None:
        for line in run_classify(**options):
            print(line, flush=True)

    return run_tool(run)
