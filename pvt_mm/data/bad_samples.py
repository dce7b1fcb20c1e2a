"""Bad images and annotations while a training runs: they are named, and some may be left out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank

from pvt_mm.data.allowance import Allowance, name_sample
from pvt_mm.data.sample_checks import check_masks, check_sample, describe
from pvt_mm.errors import UserError

__all__ = ["RECORD", "BadSampleError", "allow_bad_images", "guard_samples"]

# In the work directory: a line of JSON for each bad sample.
RECORD = "bad_images.jsonl"
# A data set's number stands above these bits, a sample's below.
INDEX_BITS = 40


class BadSampleError(UserError):
    """A sample that cannot be trained on, or one more than may be left out.

    Args:
        message: One line; or the text around it with which torch passes a worker's error on.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def allow_bad_images(cfg: Config, number: int | None) -> None:
    """Set how many bad samples a training may leave out.

    Args:
        cfg: The config; the number is kept as ``skip_bad_images``.
        number: That of ``--skip-bad-images``; None leaves what the config says.

    Raises:
        UserError: If it is no whole number from 0.
    """
    number = cfg.get("skip_bad_images", 0) if number is None else number
    if type(number) is not int or number < 0:
        raise UserError(f"--skip-bad-images {number}: expected a whole number from 0")
    cfg.skip_bad_images = number


def guard_samples(dataset: Any, allowance: Allowance, training: bool) -> None:
    """Let the data sets of a loader name bad samples, and leave out some.

    A wrapper round the data set would hide it from hooks that change its pipeline: so each one's
    own ``prepare_data`` is replaced, which mmengine 0.10 has no other seat for.

    Args:
        dataset: The loader's data set; those inside it are guarded.
        allowance: How many samples may be left out.
        training: Whether they are trained on; otherwise they are evaluated.
    """
    for number, leaf in enumerate(_leaves(dataset)):
        if not isinstance(leaf.prepare_data, GuardedSamples):
            leaf.prepare_data = GuardedSamples(leaf, number, allowance, training)


def _leaves(dataset: Any) -> Iterator[BaseDataset]:
    """Yield the real data sets inside wrappers such as RepeatDataset."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    inner = getattr(dataset, "datasets", None) or [
        getattr(dataset, name) for name in ("dataset", "_dataset") if hasattr(dataset, name)
    ]
    for part in inner:
        yield from _leaves(part)


class GuardedSamples:
    """In the place of a data set's ``prepare_data``: the same, but a bad sample gets a name.

    If it may be left out, the next good one of the data set comes in its place: which, does not
    depend on random numbers, workers or earlier samples.

    Args:
        dataset: The data set.
        number: Its number among those of a data loader.
        allowance: How many samples may be left out.
        training: Whether they are trained on; otherwise they are evaluated.
    """

    def __init__(
        self, dataset: BaseDataset, number: int, allowance: Allowance, training: bool
    ) -> None:
        self.dataset, self.number, self.allowance = dataset, number, allowance
        self.training = training
        # Not the bound method: unpickled in a spawned worker, it would be this object.
        self.load: Callable[[BaseDataset, int], Any] = type(dataset).prepare_data
        transforms = getattr(dataset.pipeline, "transforms", ())
        self.masks = any(getattr(transform, "with_mask", False) for transform in transforms)

    def __call__(self, index: int) -> Any:
        """Load a sample, or another one if it is bad and may be left out.

        Raises:
            BadSampleError: If it may not be.
        """
        for step in range(len(self.dataset)):
            at = (index + step) % len(self.dataset)
            try:
                if self.masks:
                    check_masks(self.dataset.get_data_info(at))
                sample = self.load(self.dataset, at)
                check_sample(sample, self.dataset, self.training)
                return sample
            except (BadSampleError, MemoryError):
                raise
            except Exception as error:
                self._leave_out(at, error)
        raise BadSampleError(f"none of the {len(self.dataset)} samples can be loaded")

    def _leave_out(self, index: int, error: Exception) -> None:
        info = self.dataset.get_data_info(index)
        reason = describe(error)
        entry = {
            "file": info.get("img_path"),
            "image_id": info.get("img_id"),
            "label_map": info.get("seg_map_path"),
            "index": index,
            "reason": reason,
            "rank": get_rank(),
            "traceback": "".join(traceback.format_exception(error)),
        }
        if not self.allowance.take(self.number << INDEX_BITS | index, entry):
            raise BadSampleError(self._refusal(entry)) from error

    def _refusal(self, entry: dict[str, Any]) -> str:
        limit = self.allowance.limit
        if limit:
            advice = f"as many as --skip-bad-images {limit} allows were left out before"
        elif not self.training:
            advice = "an evaluation needs all images"
        else:
            advice = "--skip-bad-images N leaves out up to N such"
        return (
            f"{name_sample(entry)}; {advice}; `python tools/check_dataset.py CONFIG` finds all "
            f"that is wrong; traceback in {self.allowance.record}"
        )
