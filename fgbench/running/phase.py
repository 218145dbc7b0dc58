"""A phase: a question put to a matched group in fresh processes, and what becomes of the answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fgbench.plan import Config, Group
from fgbench.running.choices import Choices
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched, build_matched
from fgbench.running.messages import Message, Report
from fgbench.running.task import Task

STARTUP_SECONDS = 6.0  # of a worker, about: its imports, its model and its first steps

Row = Mapping[str, Any]
Tables = Mapping[str, Callable[[Row], bool]]


def every_row(row: Row) -> bool:
    """For a table that is one phase's alone."""
    return True


@dataclass(frozen=True, kw_only=True)
class OfGroup(Message):
    """What the request of every phase has.

    Attributes:
        group: the matched group.
        data_dir: where its dataset is.
        seed: that model, batches and tangents follow from.
        methods: the specs of those to do.
        choices: what each of them has of its own.
    """

    group: Group
    data_dir: str
    seed: int
    methods: tuple[str, ...]
    choices: Choices


class Phase(Task):
    """All that is particular to one phase. Whoever runs, resumes or times a plan knows this class alone.

    A file of `running/phases` that assigns `phase = …` is found by being there.

    Attributes:
        name: as in jobs.csv; the file's name.
        unit: the column of jobs.csv that counts what is resumed as a whole: `process`, `seed`, or empty
            where the phase has but one.
        tables: the tables that it fills, and which of their rows are its own.
        stands_after_death: whether what a worker reported before it died stands; otherwise a resume does
            the unit again, because later phases would stand on a part of it.
        may_share: whether it may run beside other jobs of a cluster on one node: it times no steps.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    tables: ClassVar[Tables] = {}
    stands_after_death: ClassVar[bool] = True
    may_share: ClassVar[bool] = False

    @abstractmethod
    def asked(self, config: Config) -> bool:
        """Whether a config asks for it."""

    def after(self, config: Config) -> tuple[str, ...]:
        """The names of the phases that have to be through before it, where they are asked for."""
        return ()

    @abstractmethod
    def seconds(self, config: Config) -> float:
        """About how long it takes one matched group."""

    def units(self, config: Config) -> int:
        """How many units it has in one matched group, as far as that is known before."""
        return {"process": config.processes, "seed": config.seeds}.get(self.unit, 1)

    @abstractmethod
    def run(self, group: GroupRun) -> None:
        """Ask workers, and store what they answer; in the runner.

        What an earlier try finished is not done again. A worker that dies is rows, not an error.
        """

    @abstractmethod
    def measure(self, matched: Matched, asked: Any, report: Report) -> None:
        """Answer the request; in the worker."""

    def work(self, asked: OfGroup, report: Report) -> None:
        """Build the matched group, say what it is, and measure."""
        matched = build_matched(asked.group, asked.data_dir, asked.seed, asked.choices)
        report(matched.facts())
        self.measure(matched, asked, report)
