"""Datasets: every source loads its data into memory as a `Dataset`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fgbench.errors import UsageError
from fgbench.specs import registry
from fgbench.specs.options import parse_options, split_spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Images with their labels, or texts with the next token of each position; the split never changes.

    Attributes:
        train_x: images [samples, channels, height, width], normalised by the training split's own mean and
            standard deviation unless its source is asked not to; or tokens [samples, context], class indices.
        train_y: [samples], class indices; for text [samples, context], the token that follows each position.
        validation_x: as `train_x`; held out, never trained on.
        validation_y: as `train_y`.
        classes: number of classes.
        raw: the data before it was normalised, from which `contents` is computed; empty once it was dropped.
    """

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    classes: int
    raw: tuple[Tensor, ...] = ()

    @property
    def contents(self) -> str:
        """A hash of the raw data; normalised data would not do, as other machines round it differently."""
        digest = hashlib.blake2b(digest_size=8)
        own = (self.train_x, self.train_y, self.validation_x, self.validation_y)
        for tensor in self.raw or own:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}\0".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def in_shape(self) -> tuple[int, ...]:
        """The shape of one sample: [channels, height, width] of an image, [context] of a text."""
        return tuple(self.train_x.shape[1:])

    def to(self, device: torch.device, dtype: torch.dtype) -> Dataset:
        """The same data on a device, images in `dtype`, so that no timed step has to load or convert it."""
        own = dtype if self.train_x.is_floating_point() else self.train_x.dtype
        return replace(
            self,
            train_x=self.train_x.to(device, own),
            train_y=self.train_y.to(device),
            validation_x=self.validation_x.to(device, own),
            validation_y=self.validation_y.to(device),
        )


class Source(ABC):
    """Loads one kind of dataset. A subclass is a frozen dataclass, and its fields are the spec's options."""

    summary: ClassVar[str]
    of_bytes: ClassVar[bool] = False
    """Whether bytes of a text are predicted, so that losses can also be given in bits per byte."""

    @abstractmethod
    def load(self, data_dir: Path) -> Dataset:
        """Read the data, downloading it into `data_dir` once where that is needed.

        Raises:
            UsageError: the data is missing and cannot be downloaded.
        """


def find(spec: str) -> Source:
    """The source for a spec of the form `name:option=value`.

    Raises:
        UsageError: there is no such dataset or option.
    """
    name, options = split_spec(spec)
    return parse_options(registry.find("datasets", name), name, options)


def load_whole(spec: str, data_dir: Path) -> Dataset:
    """Load a dataset as its source gives it.

    Raises:
        UsageError: there is no such dataset, or its data is missing and cannot be downloaded.
    """
    return find(spec).load(data_dir.expanduser())


def load(spec: str, data_dir: Path, validation_size: int) -> Dataset:
    """Load a dataset, and keep only the first `validation_size` samples of its validation split.

    Raises:
        UsageError: there is no such dataset, or its data is missing and cannot be downloaded.
    """
    data = load_whole(spec, data_dir)
    if validation_size < 1:
        raise UsageError(f"--validation-size {validation_size}: must be at least 1.")
    return replace(
        data,
        raw=(),
        validation_x=data.validation_x[:validation_size],
        validation_y=data.validation_y[:validation_size],
    )


def normalised(train_x: Tensor, train_y: Tensor, held_x: Tensor, held_y: Tensor, classes: int) -> Dataset:
    """A `Dataset` whose images have mean 0 and standard deviation 1 over the training split."""
    mean, deviation = train_x.mean(), train_x.std()
    return Dataset(
        (train_x - mean) / deviation,
        train_y,
        (held_x - mean) / deviation,
        held_y,
        classes=classes,
        raw=(train_x, train_y, held_x, held_y),
    )
