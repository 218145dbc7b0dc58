"""The config: all that was asked for, with the default of everything that need not be asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fgbench.errors import ResultsError
from fgbench.methods import PLAIN
from fgbench.plan.group import ALL


class Dtype(StrEnum):
    """What models and data are computed in."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"  # float32 tensors, matrix products and convolutions rounded to TF32


TF32 = Dtype.TF32.value
DTYPES = tuple(dtype.value for dtype in Dtype)
REFERENCE = "backprop"  # the method that a ratio is over, wherever it is among the methods
PUBLISHED = "forward"  # as in Baydin et al. 2022
# Of all forward methods measured with a learning rate of their own, the soonest at half of backprop's way on
# MLPs of both widths, and the only one that came to nine tenths: results/reference-mnist-256 and -1024. A
# test holds it to them.
BEST_FORWARD = "forward:tangents=16,structure=activity"
KNOWN_AS = {PUBLISHED: "as published", BEST_FORWARD: "the best known"}


def default_data_dir() -> str:
    """Where downloaded data is kept: FGBENCH_DATA, or the user's cache folder."""
    return os.environ.get("FGBENCH_DATA") or "~/.cache/fgbench"


@dataclass(frozen=True)
class Config:
    """All that was asked for; the command line's options are its fields, and their defaults are here.

    Attributes, where the name does not say it: depths and width None mean the architecture's own; batch,
    dataset and execution left open mean the device's (`fgbench.plan.defaults`), and batch may be several;
    optimizer may be several with `|` between them, of which each method's search takes the best;
    learning_rate None means searched, several are each method's own, in their order, lr_decay shrinks it by
    exp(-lr_decay · i) at step i; target_loss and target_accuracy hold several with commas; max_iterations
    and max_queries (evaluations of the model, as a method counts its steps) end a training job too, and so
    does patience, epochs in which its validation loss was not lower than before; evaluate_every None means
    found from the methods' pace; precision is the wanted half-width of a ratio's interval as a share;
    max_measure_seconds is for one group's timing over all its processes; max_train_seconds is for one
    training job; threads None means torch's own number; isolated also times every method alone; shard is
    `i/n`, or empty for all groups; slowed is the share by which each method is made slower in a timing of
    its own, 0 for no such timing; start is a file of weights that all begin from, empty for random ones;
    trained says which parameters learn; memory_budget is the most bytes that a step may need at its peak,
    None for no limit.
    """

    archs: tuple[str, ...] = ("mlp",)
    depths: tuple[int, ...] | None = None
    width: int | None = None
    batch: int | tuple[int, ...] | None = None
    dataset: str = ""
    validation_size: int = 2000
    data_dir: str = field(default_factory=default_data_dir)
    methods: tuple[str, ...] = (REFERENCE, PUBLISHED, BEST_FORWARD)
    seeds: int = 3
    target_loss: str = "50%,90%"
    learning_rate: float | tuple[float, ...] | None = None
    max_train_seconds: float = 3.0
    precision: float = 0.02
    max_measure_seconds: float = 45.0
    processes: int = 6
    device: str = "auto"
    dtype: str = Dtype.FLOAT32.value
    threads: int | None = None
    execution: str = ""
    optimizer: str = PLAIN.optimizer
    time: bool = True
    train: bool = True
    isolated: bool = False
    shard: str = ""
    lr_decay: float = 0.0
    target_accuracy: str = ""
    max_iterations: int | None = None
    max_queries: int | None = None
    evaluate_every: int | None = None
    slowed: float = 0.0
    start: str = ""
    trained: str = ALL
    memory_budget: int | None = None
    patience: int | None = None

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rate that each method was given; empty where they are searched."""
        rates = self.learning_rate
        if rates is None:
            return {}
        several = rates if isinstance(rates, tuple) else (rates,) * len(self.methods)
        return dict(zip(self.methods, several, strict=True))

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes, none where they are left open."""
        if self.batch is None:
            return ()
        return self.batch if isinstance(self.batch, tuple) else (self.batch,)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Config:
        """The config of a stored run: what its `run.json` holds under `config`.

        What an older fgbench did not have as an option yet is at its default, which is how it was run.

        Raises:
            ResultsError: options that this version does not have.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ResultsError(f"run.json: its config is not this version's ({error}).") from error
