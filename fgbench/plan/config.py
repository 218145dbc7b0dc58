"""The config: all that a run is asked to do, with the defaults of everything that is left open."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fgbench.errors import ResultsError
from fgbench.methods import PLAIN
from fgbench.plan.group import ALL


class Dtype(StrEnum):
    """The precision of models and data."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"  # float32 tensors, matrix products and convolutions rounded to TF32


TF32 = Dtype.TF32.value
DTYPES = tuple(dtype.value for dtype in Dtype)
REFERENCE = "backprop"  # ratios are over this method, if it is among the methods
PUBLISHED = "forward"  # as in Baydin et al. 2022
# Of all forward methods measured at rates of their own, this was the first to make half of backprop's
# way on MLPs of both widths, and the only one to make nine tenths of it (results/reference-mnist-256 and
# -1024). A test checks that.
BEST_FORWARD = "forward:tangents=16,structure=activity"
KNOWN_AS = {PUBLISHED: "as published", BEST_FORWARD: "the best known"}


def default_data_dir() -> str:
    """The folder of downloaded data: $FGBENCH_DATA, or one in the user's cache folder."""
    return os.environ.get("FGBENCH_DATA") or "~/.cache/fgbench"


@dataclass(frozen=True)
class Config:
    """All that a run is asked to do; the command line's options are its fields, with their defaults.

    Attributes, where the name does not explain them:
        depths, width: None for the architecture's own default.
        batch, dataset, execution: left open for the device's defaults (`fgbench.plan.defaults`); batch may
            be several.
        target_loss, target_accuracy: several are separated by commas.
        learning_rate: None for a rate that is searched for each method.
        lr_decay: a number d, which multiplies the learning rate by exp(-d · i) at step i; or a spec, as in
            `fgbench.training.decay`.
        optimizer: several are separated by `|`; each method's search chooses one.
        max_train_seconds, max_iterations, max_queries: limits of one training job; a query is an evaluation
            of the model, of which a step counts as a method's `queries`.
        patience: a training job also ends after so many epochs without a lower validation loss; None for no
            such end.
        evaluate_every: None for a spacing that is found from the methods' pace.
        precision: the wanted half-width of a ratio's interval, as a share of the ratio.
        max_measure_seconds: for the timing of one group, over all its processes.
        threads: None for torch's own number, or one less than the usable cores if that is fewer.
        isolated: whether every method is also timed alone.
        shard: `i/n`, or empty for all groups.
        slowed: the share by which a repeat of each method is made slower; 0 for no such repeats.
        start: a file of weights that all methods begin from; empty for random weights.
        trained: which parameters are trained, as in `--train`.
        memory_budget: the most bytes that a step may need at its peak; None for no limit.
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
    max_train_seconds: float = 2.0
    precision: float = 0.02
    max_measure_seconds: float = 40.0
    processes: int = 8
    device: str = "auto"
    dtype: str = Dtype.FLOAT32.value
    threads: int | None = None
    execution: str = ""
    optimizer: str = PLAIN.optimizer
    time: bool = True
    train: bool = True
    isolated: bool = False
    shard: str = ""
    lr_decay: float | str = 0.0
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
        """The batch sizes; empty where they are left open."""
        if self.batch is None:
            return ()
        return self.batch if isinstance(self.batch, tuple) else (self.batch,)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Config:
        """The config of a stored run, from the key `config` of its `run.json`.

        An option that an older fgbench did not have is at its default, which is what that version did.

        Raises:
            ResultsError: the run has options that this version does not have.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ResultsError(f"run.json: its config is not of this version ({error}).") from error
