"""Data loaders that start anywhere in the data, and seed each sample by its place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_rank
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from pvt_mm.errors import UserError
from pvt_mm.training.resuming.randomness import seed_everything

__all__ = ["ResumableLoader"]

# What one loader takes over from another; datasets and batches aside.
KEPT = (
    "collate_fn",
    "multiprocessing_context",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
    "worker_init_fn",
)


class Draw(NamedTuple):
    """One sample of a batch: its index in the data set, and its place in the training."""

    index: int
    place: tuple[int, ...]


class PlacedBatches(Sampler[list[Draw]]):
    """The batches of another sampler, from any one on.

    Args:
        batches: The batches of indices.
        endless: Whether to begin a new epoch at the end, as training by iterations needs it.
    """

    def __init__(self, batches: BatchSampler, endless: bool) -> None:
        self.batches, self.endless = batches, endless
        self.sampler = batches.sampler  # mmengine tells it the epoch
        self.seed = self.epoch = self.first = 0

    @property
    def batch_size(self) -> int:
        """Of a whole batch; mmengine's FlexibleRunner asks for it."""
        return self.batches.batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        batches = self._endless() if self.endless else self.batches
        stream = (self.seed, get_rank(), self.epoch)
        for number, batch in islice(enumerate(batches), self.first, None):
            yield [Draw(index, (*stream, number, slot)) for slot, index in enumerate(batch)]

    def _endless(self) -> Iterator[list[int]]:
        for epoch in count():
            if epoch and hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            batch = None
            for batch in self.batches:
                yield batch
            if batch is None:
                raise UserError("train_dataloader has no batch: fewer images than batch_size?")


class ResumableLoader(DataLoader):
    """A data loader that can leave out batches without loading them.

    The random numbers with which a sample is augmented depend on the run's seed and the sample's
    place in the training alone, whatever the number of workers and whatever came before.

    Args:
        loader: What is loaded; it must not have been used.
        endless: Whether to begin a new epoch at the end.
    """

    def __init__(self, loader: DataLoader, endless: bool = False) -> None:
        # torch asks the object, not its class, whether it fetches a batch at once. A wrapper
        # would hide the data set from hooks that change its pipeline.
        loader.dataset.__getitems__ = partial(_fetch, loader.dataset)
        super().__init__(
            loader.dataset,
            batch_sampler=PlacedBatches(loader.batch_sampler, endless),
            generator=torch.Generator(),  # else each new iterator takes from the global one
            **{name: getattr(loader, name) for name in KEPT},
        )

    def start_at(self, seed: int, epoch: int, first: int) -> None:
        """Choose what the next iteration over the data begins with.

        Args:
            seed: The run's seed.
            epoch: The epoch, from 0; always 0 if endless.
            first: The number of batches to leave out.
        """
        self.batch_sampler.seed, self.batch_sampler.epoch = seed, epoch
        self.batch_sampler.first = first

    def __iter__(self) -> Iterator[Any]:
        # A generator, which starts no workers before it is asked for data: mmengine's loop by
        # iterations takes one when it is built.
        yield from super().__iter__()


def _fetch(dataset: Dataset, draws: list[Draw]) -> list[Any]:
    samples = []
    for draw in draws:
        seed_everything(*draw.place)
        samples.append(dataset[draw.index])
    return samples
