"""A matched group: what jobs share that differ in the method alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgbench.methods import PLAIN, Conditions
from fgbench.specs.options import OR


@dataclass(frozen=True)
class Group:
    """A matched group: all that its jobs share. Only the method differs within it."""

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

    @property
    def optimizers(self) -> tuple[str, ...]:
        """One for all methods, or those that each method's search takes one of."""
        return tuple(self.optimizer.split(OR))

    @property
    def conditions(self) -> Conditions:
        """What every method of the group is prepared with, as long as it has nothing of its own."""
        return Conditions(self.execution, self.optimizers[0])

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
            f"{self.dtype}"
        )
