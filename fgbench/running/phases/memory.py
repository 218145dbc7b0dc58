"""The memory phase: peak bytes of a step of each method by kind; nothing is timed.

A step that is captured in a CUDA graph is measured without the capture: a graph keeps its temporaries in a
pool of its own for as long as it lives, and a replay allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, cycle
from typing import ClassVar

from torch import Tensor, nn

from fgbench import methods
from fgbench.measurement.memory import Peak, edge, peak_of_step
from fgbench.methods import Batch, Conditions, Step
from fgbench.plan import Config
from fgbench.running.arms import LEARNING_RATE, base_step
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.reporting import blamed, failures_reported
from fgbench.store.schema import BASE

BATCHES = 2
RESULTS = ("draw", "backward", "forward and backward")  # these parts of a step leave tangents or gradients


@dataclass(frozen=True)
class PeakFound(Message):
    """A row of memory.csv: bytes of one kind at a method's peak, or of the model itself."""

    method: str
    kind: str
    bytes: int


class Memory(Phase):
    """Measures the memory that a step of each method needs at its peak."""

    name = "memory"
    request = OfGroup
    reports = (PeakFound,)
    tables: ClassVar[Tables] = {"memory": every_row}
    may_share = True

    def asked(self, config: Config) -> bool:
        """Whenever steps are timed."""
        return config.time

    def after(self, config: Config) -> tuple[str, ...]:
        """After timing, so that a reader sees the main figures early."""
        return ("time", "alone", "load")

    def seconds(self, config: Config) -> float:
        """The start of one process."""
        return STARTUP_SECONDS

    def run(self, group: GroupRun) -> None:
        """Ask one process for all methods."""
        if group.finished(self.name):
            return
        group.begin("peak memory", STARTUP_SECONDS)
        with group.jobs(self.name, group.methods) as jobs:
            for event in group.work(self, jobs):
                if isinstance(event, PeakFound):
                    group.store("memory", asdict(event))

    def measure(self, matched: Matched, asked: OfGroup, report: Report) -> None:
        """Measure the base and every method."""
        measure_memory(matched, asked.methods, report)


def measure_memory(matched: Matched, specs: Sequence[str], report: Report) -> None:
    """Report the model's own bytes, and the peak of the base and of each method by kind."""
    size = bytes_of_model(matched.model)
    report(PeakFound(BASE, "parameters", size))
    batches = matched.batches(BATCHES)
    for spec in (BASE, *specs):
        with failures_reported(report, spec), blamed(report, spec):
            made: list[Step] = []
            peak = peak_of_step(partial(prepared_step, matched, spec, batches, made), matched.device)
            for kind, amount in _kinds(peak, size, made).items():
                report(PeakFound(spec, kind, amount))


def bytes_of_model(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; tied ones count once."""
    tied_once = {t.data_ptr(): t for t in chain(model.parameters(), model.buffers())}
    return sum(t.numel() * t.element_size() for t in tied_once.values())


def _kinds(peak: Peak, parameters: int, made: Sequence[Step]) -> dict[str, int]:
    """Bytes by kind, as in memory.csv: the peak, and the kinds that add up to it."""
    rows = {"peak_allocated": peak.allocated}
    if peak.reserved is not None:
        rows["peak_reserved"] = peak.reserved
    if peak.kept is None or peak.made is None or peak.passing is None:
        return rows
    state = sum(_bytes_of_optimizer(step) for step in made)
    return rows | {
        "peak_parameters": parameters,
        "peak_optimizer_state": state,
        # Tangents that a step keeps for the next one are among `kept`.
        "peak_gradients_and_tangents": peak.made + peak.kept - parameters - state,
        "peak_activations_and_temporaries": peak.passing,
    }


def _bytes_of_optimizer(step: Step) -> int:
    states = step.optimizer.state.values() if step.optimizer else ()
    tensors = [v for state in states for v in state.values() if isinstance(v, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def _uncaptured(matched: Matched, spec: str) -> Conditions:
    conditions = matched.conditions_of(spec)
    return replace(conditions, execution="eager") if conditions.captured else conditions


def prepared_step(
    matched: Matched, spec: str, batches: Sequence[Batch], made: list[Step]
) -> Callable[[], object]:
    """A call that takes a step of each kind that may need the most memory; the `Step` goes into `made`."""
    supply, conditions_of = cycle(batches), partial(_uncaptured, matched)
    if spec == BASE:
        return base_step(replace(matched.problem(batches), conditions_of=conditions_of))
    step = methods.prepare(
        methods.find(spec), matched.copy_of_model(), matched.loss, matched.seed, conditions_of(spec)
    )
    made.append(step)

    def run() -> None:
        batch = next(supply)
        step.get_ready(batch)
        for _ in step.each_kind():
            for name, part in step.parts(batch, LEARNING_RATE).items():
                part()
                if name in RESULTS:
                    edge()

    return run


phase = Memory()
