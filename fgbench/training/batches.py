"""The order of batches: it depends on the seed alone, and is the same for every method of a group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fgbench.datasets import Dataset
from fgbench.methods import Batch

HASHED_BATCHES = 64  # the hash of an order is that of its first batches


@dataclass(frozen=True)
class BatchOrder:
    """Which samples are in each batch: a new permutation in every epoch, without an incomplete last batch.

    Attributes:
        samples: how many samples the training split has.
        batch: samples in a batch, at most `samples`.
        seed: decides the permutations.
    """

    samples: int
    batch: int
    seed: int

    @property
    def epoch(self) -> int:
        """Its batches."""
        return self.samples // self.batch

    def indices(self, iteration: int) -> Tensor:
        """Sample indices [batch] of the given iteration, on the CPU."""
        epoch, place = divmod(iteration, self.epoch)
        return _permutation(self.samples, self.seed, epoch)[place * self.batch : (place + 1) * self.batch]

    def batches(self, data: Dataset, first: int, count: int) -> list[Batch]:
        """The `count` batches from iteration `first` on, gathered on the data's device."""
        return list(self._gathered(data, first, count))

    def digest(self) -> str:
        """A hash of the first batches' indices: equal for jobs that see the same batches."""
        digest = hashlib.blake2b(digest_size=8)
        for iteration in range(HASHED_BATCHES):
            digest.update(self.indices(iteration).numpy().tobytes())
        return digest.hexdigest()

    def _gathered(self, data: Dataset, first: int, count: int) -> Iterator[Batch]:
        for iteration in range(first, first + count):
            index = self.indices(iteration).to(data.train_x.device)
            yield data.train_x[index], data.train_y[index]


@lru_cache(maxsize=4)
def _permutation(samples: int, seed: int, epoch: int) -> Tensor:
    # Every epoch has a generator of its own, so that a batch can be found without those before it.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(samples, generator=generator)
