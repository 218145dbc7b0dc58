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
from fgbench.store.schema import BASE

STARTUP_SECONDS = 6.0  # about what a worker needs for its imports, its model and its first steps

Row = Mapping[str, Any]
Tables = Mapping[str, Callable[[Row], bool]]


def every_row(row: Row) -> bool:
    """Says yes to every row: for a table that one phase alone fills."""
    return True


@dataclass(frozen=True, kw_only=True)
class OfGroup(Message):
    """The part that all phases' requests have in common.

    Attributes:
        group: the matched group.
        data_dir: the folder of its dataset.
        seed: decides the model, the batches and the tangents.
        methods: the specs of the methods to measure.
        choices: what was chosen for single methods beforehand.
    """

    group: Group
    data_dir: str
    seed: int
    methods: tuple[str, ...]
    choices: Choices

    @property
    def compiles(self) -> bool:
        """Whether the base or any of the methods goes through torch.compile."""
        names = (BASE, *self.methods)
        return any(self.choices.conditions_of(self.group, name).compiled for name in names)


class Phase(Task):
    """All that is particular to one phase; the code that runs, resumes or times a plan knows no more of it.

    A file of `running/phases` that assigns `phase = …` is found without being listed anywhere.

    Attributes:
        name: its name in jobs.csv, and that of its file.
        unit: the column of jobs.csv that numbers its units, the pieces that are resumed as a whole:
            `process`, `seed`, or empty where the phase is a single unit.
        tables: the tables that it fills, and which of their rows are its own.
        stands_after_death: whether rows that a worker reported before it died are kept. If not, a resumed
            run does the unit again, because later phases would build on incomplete rows.
        may_share: whether it may run beside other jobs on a node of a cluster, as it times no steps, or as
            its methods take turns, so that what else runs there slows all of them alike.
        goes_on: whether a unit that is tried again goes on from the state that the try before it stored.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    tables: ClassVar[Tables] = {}
    stands_after_death: ClassVar[bool] = True
    may_share: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False

    @abstractmethod
    def asked(self, config: Config) -> bool:
        """Whether a config asks for it."""

    def after(self, config: Config) -> tuple[str, ...]:
        """The names of the phases that have to end before it begins, if they are asked for."""
        return ()

    @abstractmethod
    def seconds(self, config: Config) -> float:
        """About how long it takes one matched group."""

    def units(self, config: Config) -> int:
        """How many units it has in one matched group, as far as that is known beforehand."""
        return {"process": config.processes, "seed": config.seeds}.get(self.unit, 1)

    @abstractmethod
    def run(self, group: GroupRun) -> None:
        """Ask workers, and store what they answer. Runs in the runner's process.

        Units that an earlier try finished are not done again. The death of a worker is stored in rows of
        jobs.csv, and raises no error.
        """

    @abstractmethod
    def measure(self, matched: Matched, asked: Any, report: Report) -> None:
        """Answer the request. Runs in a worker's process."""

    def work(self, asked: OfGroup, report: Report) -> None:
        """Build the matched group, report its facts, and measure."""
        matched = build_matched(asked.group, asked.data_dir, asked.seed, asked.choices)
        report(matched.facts())
        self.measure(matched, asked, report)
