"""A matched group: what jobs have in common that differ only in the method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgbench.methods import PLAIN, Conditions
from fgbench.specs.options import OR
from fgbench.store.schema import one_line

ALL = "all"  # every parameter is trained


def name_of(arch: str, depth: int, width: int, batch: int) -> str:
    """The name of a matched group of these."""
    source, _, function = arch.rpartition(":")
    stem = Path(source).stem if source.endswith(".py") else source
    short = f"{stem}.{function}".replace(":", ".") if source else arch  # no file's name has a colon
    return one_line(f"{short}-d{depth}-w{width}-b{batch}")


@dataclass(frozen=True)
class Group:
    """A matched group: all that its jobs have in common; only the method differs.

    `start` is the file of weights that every job begins from, `trained` says which parameters are trained,
    and `memory_budget` is in bytes; see `Config`.
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
        """The optimiser of all methods, or several from which each method's search chooses."""
        return tuple(self.optimizer.split(OR))

    @property
    def conditions(self) -> Conditions:
        """The conditions for every method of the group for which nothing else was chosen."""
        return Conditions(self.execution, self.optimizers[0])

    @property
    def of_training(self) -> str:
        """In words, which parameters are trained and what they begin from, if that is not the default."""
        trained = f", training {self.trained}" if self.trained != ALL else ""
        return trained + (f", from {Path(self.start).name}" if self.start else "")

    @property
    def name(self) -> str:
        """A short name, unique within a run, and the same in `run.json` as in the cells of a table."""
        return name_of(self.arch, self.depth, self.width, self.batch)

    @property
    def sentence(self) -> str:
        """A description for titles and tables."""
        return (
            f"{self.arch}, depth {self.depth}, width {self.width}, batch {self.batch}, {self.dataset}, "
            f"{self.dtype}{self.of_training}"
        )
