"""The memory phase: peak bytes of a step of each method, untimed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle

from fgbench import methods
from fgbench.measurement.memory import peak_of_step
from fgbench.worker.matched import Matched
from fgbench.worker.reporting import Report, failures_reported
from fgbench.worker.timing import BASE, LEARNING_RATE, Problem, base_step

BATCHES = 2


def measure_memory(matched: Matched, specs: Sequence[str], report: Report) -> None:
    """Report the model's own bytes, and the peak of the base and of each method."""
    state = matched.model.state_dict().values()
    report("memory", method=BASE, kind="parameters", bytes=sum(t.numel() * t.element_size() for t in state))
    for spec in (BASE, *specs):
        with failures_reported(report, spec):
            peak = peak_of_step(partial(_prepare, matched, spec), matched.device)
            report("memory", method=spec, kind="peak_allocated", bytes=peak.allocated)
            if peak.reserved is not None:
                report("memory", method=spec, kind="peak_reserved", bytes=peak.reserved)
        gc.collect()


def _prepare(matched: Matched, spec: str) -> Callable[[], object]:
    batches, conditions = matched.batches(BATCHES), matched.group.conditions
    if spec == BASE:
        return base_step(Problem(matched.model, matched.loss, batches, matched.seed, conditions))
    step = methods.find(spec).prepare(matched.copy_of_model(), matched.loss, matched.seed, conditions)
    supply = cycle(batches)
    return lambda: step(next(supply), LEARNING_RATE)
