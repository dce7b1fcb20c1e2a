"""Inference from the command line: what is found in images and videos, as pictures and files."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from pvt_mm.cli import ArgumentTypeError, CommandLine
from pvt_mm.devices import DTYPES
from pvt_mm.errors import Interrupted, UserError, run_tool
from pvt_mm.inference.inputs import Input, find_inputs
from pvt_mm.inference.output import Output
from pvt_mm.inference.pipeline import UnreadableError
from pvt_mm.inference.predictor import Predictor, Result
from pvt_mm.inference.progress import Progress
from pvt_mm.inference.summary import (
    conclusion,
    describe_checkpoint,
    device_name,
    versions,
    write_summary,
)
from pvt_mm.inference.video import frame_count, read_frames
from pvt_mm.training.outputs import prepare_folder

__all__ = ["main", "run_infer"]

SOME_FAILED = 1  # exit code


@dataclass(frozen=True)
class Frame:
    """An image to predict; ``number`` counts the frames of a video from 0."""

    source: Input
    number: int
    image: np.ndarray


def run_infer(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    inputs: Sequence[str],
    out_dir: str | os.PathLike,
    *,
    overwrite: bool = False,
    pictures: bool = True,
    device: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Predict images and videos, and write what is found into a folder.

    An input that cannot be read is named on stderr, and the others are predicted all the same.

    Args:
        config: A detection or segmentation config.
        checkpoint: A file or a URL that holds the whole network.
        inputs: Files, folders, patterns, URLs, or ``-`` for the paths on standard input.
        out_dir: Where ``vis``, ``labels`` or ``results.json``, and ``summary.json`` go.
        overwrite: Whether results of the same names there may be replaced.
        pictures: Whether to draw.
        device: Such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        options: Arguments of :class:`Predictor`.

    Returns:
        What ``summary.json`` holds.

    Raises:
        UserError: If something is missing or does not fit.
        CheckpointError: If the checkpoint cannot be loaded.
        Interrupted: After a signal; what was done until then is written.
    """
    sources = find_inputs(inputs, sys.stdin)
    folder = Path(out_dir).expanduser()
    prepare_folder("--out-dir", folder, overwrite)
    with redirect_stdout(sys.stderr):  # the log; stdout is for the result
        predictor = Predictor(config, checkpoint, device, **options)
    summary = {
        "config": os.fspath(config),
        "checkpoint": describe_checkpoint(os.fspath(checkpoint)),
        "options": {**options, "tile": predictor.tile},
        "device": device_name(predictor.device),
        "versions": versions(),
        "inputs": {source.name: source.path for source in sources},
    }
    try:
        with _signals() as received:
            summary |= _predict(predictor, sources, folder, pictures, received)
            write_summary(folder, summary)
    except OSError as error:  # what is read has errors of its own
        raise UserError(f"--out-dir {folder}: {error.strerror or error}") from error
    print(conclusion(folder, summary))
    if received:
        raise Interrupted(received[0])
    return summary


def _predict(
    predictor: Predictor, sources: list[Input], folder: Path, pictures: bool, received: list[int]
) -> dict[str, Any]:
    """Predict and write everything, or what there is time for until a signal is received."""
    failed: list[dict[str, str]] = []
    frames = _frames(sources, predictor.read, failed)
    with (
        Progress(sum(map(_length, sources))) as progress,
        Output(
            folder,
            predictor.class_names,
            predictor.category_ids,
            predictor.is_segmentor,
            pictures,
        ) as output,
    ):
        while not received and (batch := list(islice(frames, predictor.batch_size))):
            for frame, result in _results(predictor, batch, failed):
                output.add(frame.source, frame.number, frame.image, result)
                progress.advance(1)
        return {
            "images": progress.done,
            "failed": failed,
            "interrupted": bool(received),
            "pixels" if predictor.is_segmentor else "detections": output.by_class(),
            "seconds": round(progress.seconds, 3),
            "images_per_second": round(progress.rate, 3),
        }


def _frames(
    sources: list[Input], read: Callable[[str], np.ndarray], failed: list[dict[str, str]]
) -> Iterator[Frame]:
    """Yield what can be read; note and say what cannot."""
    for source in sources:
        try:
            if source.is_video:
                for number, image in enumerate(read_frames(source.path)):
                    yield Frame(source, number, image)
            else:
                yield Frame(source, 0, read(source.path))
        except UnreadableError as error:
            _note(source, error, failed)


def _results(
    predictor: Predictor, batch: list[Frame], failed: list[dict[str, str]]
) -> Iterator[tuple[Frame, Result]]:
    """Yield frames and their results; note and say what the network cannot take."""
    try:
        yield from zip(batch, predictor.predict([frame.image for frame in batch]), strict=True)
    except UnreadableError as error:
        if len(batch) == 1:
            _note(batch[0].source, error, failed)
            return
        for frame in batch:
            yield from _results(predictor, [frame], failed)


def _note(source: Input, error: UnreadableError, failed: list[dict[str, str]]) -> None:
    reason = str(error).removeprefix(f"{source.path}: ")
    failed.append({"input": source.path, "reason": reason})
    print(f"error: {source.path}: {reason}", file=sys.stderr, flush=True)


def _length(source: Input) -> int:
    """Return how many images an input has, as far as can be known before it is read."""
    try:
        return frame_count(source.path) if source.is_video else 1
    except UnreadableError:  # reported when its turn comes
        return 1


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM; the second one ends the work at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("stopping after these images; Ctrl-C stops at once", file=sys.stderr, flush=True)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, receive) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tile(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a number of pixels, got {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/infer.py``.

    Args:
        argv: The command line without the program's name; ``sys.argv``'s by default.

    Returns:
        The exit code: 0, 1 if some inputs could not be read, 2 for a mistake that stderr names in
        one line, or that of the signal which stopped the work.
    """
    parser = CommandLine(
        "infer.py", "Find objects, or the classes of pixels, in images and videos."
    )
    parser.add_config()
    parser.add_argument(
        "checkpoint",
        help="checkpoint of the whole model: a file or a URL; or an exported .onnx or .xml",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="input",
        help="image, video, folder, pattern, URL, or - for a list of paths on standard input",
    )
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="where results go")
    parser.add_flag("--overwrite", "replace results of the same names in DIR")
    parser.add_argument("--no-vis", dest="pictures", action="store_false", help="write no pictures")
    parser.add_device()
    parser.add_argument("--batch-size", type=int, default=1, help="images predicted together (1)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="leave out objects of a lower score (0.3)"
    )
    parser.add_argument(
        "--max-size", type=int, metavar="N", help="shrink images whose longer side exceeds N pixels"
    )
    parser.add_argument(
        "--tile",
        nargs="?",
        type=_tile,
        const="auto",
        metavar="N",
        help="cut larger images into tiles of N pixels a side and join the results; without N, "
        "the side that the config's test pipeline does not resize",
    )
    parser.add_argument(
        "--tile-overlap", type=float, default=0.25, help="share that neighbours share (0.25)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="what to compute in")
    parser.add_compile()
    parser.add_flag("--amp", "mixed precision; on CPUs in bfloat16")
    parser.add_cfg_options()
    options = parser.options(argv)
    summary: dict[str, Any] = {}
    code = run_tool(lambda: summary.update(run_infer(**options)))
    return SOME_FAILED if code == 0 and summary["failed"] else code
