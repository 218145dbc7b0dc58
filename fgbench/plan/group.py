"""A matched group: what jobs share that differ in the method alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgbench.methods import PLAIN, Conditions
from fgbench.specs.options import OR

ALL = "all"  # the parameters learn


@dataclass(frozen=True)
class Group:
    """A matched group: all that its jobs share. Only the method differs within it.

    Attributes, where the name does not say it: start is the file whose weights every job begins from;
    trained says which parameters learn; memory_budget is of bytes, as in the config.
    """

    arch: str
    depth: int
    width: int
    batch: int
    dataset: str
    validation_size: int
    dtype: str
    device: str
    threads: int
    execution: str = PLAIN.execution
    optimizer: str = PLAIN.optimizer
    start: str = ""
    trained: str = ALL
    memory_budget: int | None = None

    @property
    def optimizers(self) -> tuple[str, ...]:
        """One for all methods, or those that each method's search takes one of."""
        return tuple(self.optimizer.split(OR))

    @property
    def conditions(self) -> Conditions:
        """What every method of the group is prepared with, as long as it has nothing of its own."""
        return Conditions(self.execution, self.optimizers[0])

    @property
    def of_training(self) -> str:
        """Which parameters learn and what they begin from, where it is not the usual."""
        trained = f", training {self.trained}" if self.trained != ALL else ""
        return trained + (f", from {Path(self.start).name}" if self.start else "")

    @property
    def name(self) -> str:
        """Short and unique within a run."""
        source, _, function = self.arch.rpartition(":")
        stem = Path(source).stem if source.endswith(".py") else source
        arch = f"{stem}.{function}" if source else self.arch
        return f"{arch}-d{self.depth}-w{self.width}-b{self.batch}"

    @property
    def sentence(self) -> str:
        """What it is, for titles and tables."""
        return (
            f"{self.arch}, depth {self.depth}, width {self.width}, batch {self.batch}, {self.dataset}, "
            f"{self.dtype}{self.of_training}"
        )
