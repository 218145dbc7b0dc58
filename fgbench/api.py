"""The Python API: compare methods on a model of one's own, load results as DataFrames."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fgbench import methods as registered
from fgbench.errors import UsageError
from fgbench.measurement.lock import timing_lock
from fgbench.plan.config import PUBLISHED, REFERENCE, Config
from fgbench.running.client import WorkerDiedError, work
from fgbench.running.messages import Failed, Message, Refused
from fgbench.store.run_folder import find_runs, read_runs
from fgbench.store.schema import TABLES, Role
from fgbench.summary.modes import choices
from fgbench.summary.ratios import Ratio, ratios
from fgbench.summary.table import cost_cells, summarise
from fgbench.summary.worth import worth_cells

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fgbench.running.comparison import Comparison
    from fgbench.running.messages import Report


SECONDS_A_PROCESS = 1.5  # of timing: below, one more process would tell less than it costs
MOST_PROCESSES = 5
FINDING_PROCESSES = 3  # of them, at most, also find backprop's fastest update
WORTH_SHARE = 0.1  # of the seconds, on top of them, to hold estimates against the gradient
UPDATES_SHARE = 0.2  # of the seconds, on top of them, to find backprop's fastest update
HERE = (
    "measured in the calling process ({why}): its intervals leave out the spread between processes, freed "
    "pages are not kept, and float32 precision and threads are the caller's"
)


def compare(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor] | None,
    batch: tuple[Tensor | Mapping[str, Any], Tensor] | Mapping[str, Any],
    methods: Sequence[str] = (REFERENCE, PUBLISHED),
    *,
    reference: str | None = None,
    max_measure_seconds: float = 10.0,
    seed: int = 0,
    execution: str = registered.PLAIN.execution,
    optimizer: str = Config.optimizer,
) -> pd.DataFrame:
    """Time a training step of each method on a model and a batch, interleaved, as `fgbench run` does.

    It is timed in up to five fresh processes, which keep freed pages and compute float32 as IEEE says,
    on as many threads as the caller; before, backprop's fastest update is found in up to three. What
    cannot be pickled, or is defined in the caller's own script, is timed in the calling process, and a
    warning says what that leaves out. The model is copied for each method and stays as it is, and so do
    the caller's settings.

    Args:
        model: in training mode, on the batch's device; any of Hugging Face's, as it is.
        loss: (output, target) → scalar; a function of a module, such as torch's, can be pickled. Of an output
            that is no tensor torch's own losses take the `logits`, token by token where targets are tokens
            (nothing is shifted). None: the loss that the model itself finds from `labels`.
        batch: (input, target), where the input may be tensors by name; or all by name, as
            {"input_ids": …, "attention_mask": …, "labels": …}, whose `labels` are the target.
        methods: specs as in `fgbench run --method`.
        reference: the method that ratios are over; backprop, or the first where it is not among them.
        max_measure_seconds: about how long to time; processes take a few seconds each to start.
        seed: of the tangents and of the order.
        execution: eager, compile (torch.compile) or cudagraph (on a GPU), for all.
        optimizer: of torch.optim, for all, as in `fgbench run --optimizer`.

    Returns:
        A row for each method, the base and the A/A repeat (`role` method, base, aa): `seconds` a step,
        `r`, `ratio` with `_low` and `_high`, `processes`, `rounds`, `update` (where a method leaves it
        open, the one that was found fastest); `flops`, `floor_ratio` and `floor_share`, the `cosine` of its
        estimates with the batch's gradient and their `second_moment` over it; and a row with `status` and
        `detail` for a method that failed. Its `attrs` have `left_out`: what this measurement leaves out,
        empty where it does not.

    Raises:
        UsageError: no such method, option or optimiser, a time that is not positive, or a batch or a loss
            that does not go with the model.
    """
    from fgbench.methods.steps.optimizer import canonical_optimizer
    from fgbench.running.adapted import adapted
    from fgbench.running.comparison import Comparison

    if not max_measure_seconds > 0:
        raise UsageError(f"max_measure_seconds {max_measure_seconds}: must be positive.")
    model, loss, batch = adapted(model, loss, batch)
    device = str(batch[0].device)
    registered.check_execution("execution", execution, device)
    optimizer = canonical_optimizer(optimizer)
    specs = registered.canonical_specs(methods)
    if not specs:
        raise UsageError("methods: name at least one method.")
    if reference is not None:
        (reference,) = registered.canonical_specs([reference])
        if reference not in specs:
            raise UsageError(f"reference {reference}: must be among the methods, {', '.join(specs)}.")
    over = reference or (REFERENCE if REFERENCE in specs else specs[0])
    conditions = registered.Conditions(execution, optimizer)
    comparison = Comparison(model, loss, batch, over, seed, conditions)
    with timing_lock(device, warnings.warn), tempfile.TemporaryDirectory(prefix="fgbench-") as folder:
        return _compared(comparison, specs, max_measure_seconds, Path(folder) / "compared.pt")


def _compared(comparison: Comparison, specs: Sequence[str], seconds: float, stored: Path) -> pd.DataFrame:
    """In fresh processes, or here where they cannot have what is compared."""
    try:
        whole = _store(comparison, stored)
        return _Told(comparison.over).measure(specs, seconds, whole, partial(_in_worker, stored))
    except _NotElsewhereError as error:
        left_out = HERE.format(why=error)
    warnings.warn(f"fgbench.compare: {left_out}.", stacklevel=4)
    frame = _Told(comparison.over).measure(specs, seconds, comparison, _here, most=1)
    frame.attrs["left_out"] = left_out
    return frame


class _NotElsewhereError(Exception):
    """What is compared cannot be handed to another process; the message says why."""


def _store(comparison: Comparison, file: Path) -> Comparison:
    import torch

    try:
        torch.save((comparison.model, comparison.loss, comparison.batch), file)
    except Exception as error:  # pickle raises whatever the objects do
        raise _NotElsewhereError(f"what is compared cannot be pickled, {_line(error)}") from error
    return comparison


Job = Callable[[Any, str, Sequence[str], "dict[str, str]", float, int, Any], None]
"""In one process: comparison, what to find, methods, updates, seconds, number of the process, report."""


def _here(
    comparison: Comparison,
    what: str,
    specs: Sequence[str],
    updates: dict[str, str],
    seconds: float,
    number: int,
    report: Report,
) -> None:
    comparison.do(what, specs, updates, seconds, number, report)


def _in_worker(
    stored: Path,
    comparison: Comparison,
    what: str,
    specs: Sequence[str],
    updates: dict[str, str],
    seconds: float,
    number: int,
    report: Report,
) -> None:
    import torch

    from fgbench.running.comparison import Compare, ComparisonRequest, Unloadable

    request = ComparisonRequest(
        stored=str(stored),
        path=tuple(sys.path),
        threads=torch.get_num_threads(),
        methods=tuple(specs),
        over=comparison.over,
        seed=comparison.seed,
        execution=comparison.conditions.execution,
        optimizer=comparison.conditions.optimizer,
        what=what,
        updates=updates,
        seconds=seconds,
        number=number,
    )
    try:
        for event in work(Compare(), request):
            match event:
                case Unloadable():
                    raise _NotElsewhereError(f"another process cannot load it, {event.detail}")
                case Refused():
                    raise UsageError(event.message)
                case _:
                    report(event)
    except WorkerDiedError as died:
        for spec in specs:
            report(Failed(spec, died.status, f"its process ended early: {died}"))


class _Told:
    """What processes report, and the table of it."""

    def __init__(self, over: str) -> None:
        self.over = over
        self.modes: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.failed: dict[str, dict[str, Any]] = {}
        self.costs: list[dict[str, Any]] = []
        self.worth: list[dict[str, Any]] = []
        self.process = 0

    def __call__(self, event: Message) -> None:
        from fgbench.running.arms import Samples
        from fgbench.running.phases.cost import Counted
        from fgbench.running.phases.modes import Mode
        from fgbench.running.phases.quality import Estimated

        match event:
            case Mode():
                self.modes.append({"process": self.process, **asdict(event)})
            case Failed():
                self.failed.setdefault(event.method, {"role": Role.METHOD, **asdict(event)})
            case Counted():
                self.costs.append(asdict(event))
            case Estimated():
                self.worth.append(asdict(event))
            case Samples():
                self.samples += [{"process": self.process, **asdict(sample)} for sample in event.samples]

    def measure(
        self,
        specs: Sequence[str],
        seconds: float,
        comparison: Comparison,
        job: Job,
        most: int = MOST_PROCESSES,
    ) -> pd.DataFrame:
        """Updates first, then times, in as many processes as the seconds are worth; a failed method once.

        And at the end in one process what steps cost at the least, and what they are worth.
        """
        from fgbench.running.comparison import TIME, UPDATES, WORTH

        count = max(1, min(most, int(seconds / SECONDS_A_PROCESS)))
        updates: dict[str, str] = {}
        if comparison.leaves_open(specs):
            finding = min(count, FINDING_PROCESSES)
            for self.process in range(finding):
                job(comparison, UPDATES, specs, {}, UPDATES_SHARE * seconds / finding, self.process, self)
            self.failed = {}  # a process that died of a way to update: the times decide
            updates = {c.method: c.update for c in choices(pd.DataFrame(self.modes))} if self.modes else {}
        for self.process in range(count):
            left = [spec for spec in specs if spec not in self.failed]
            if left:
                job(comparison, TIME, left, updates, seconds / count, self.process, self)
        failed = dict(self.failed)
        if left := [spec for spec in specs if spec not in failed]:
            job(comparison, WORTH, left, updates, WORTH_SHARE * seconds, count, self)
        self.failed = failed  # what could not be judged was timed
        found = ratios(pd.DataFrame(self.samples), self.over, pilot=count) if self.samples else []
        rows = [{**r.row(), "status": "ok", **self._more(r)} for r in found]
        frame = pd.DataFrame([*rows, *self.failed.values()])
        frame["update"] = frame["method"].map(updates)
        frame.attrs["left_out"] = ""
        return frame

    def _more(self, ratio: Ratio) -> dict[str, Any]:
        """What a step costs and is worth, of a method's own row."""
        if ratio.role != Role.METHOD:
            return {}
        cost = pd.DataFrame(self.costs, columns=list(TABLES["cost"]))
        quality = pd.DataFrame(self.worth, columns=list(TABLES["quality"]))
        return {
            **cost_cells(cost, ratio.seconds, ratio.method, self.over),
            **worth_cells(quality, ratio.method, self.over),
        }


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def load(path: str | os.PathLike[str], table: str = "summary") -> pd.DataFrame:
    """Results as a DataFrame, of one run or of all runs below a folder.

    Args:
        path: a run's folder or any folder above.
        table: `summary` (a row a method of a group), or a CSV's name: jobs, samples, ratios, load,
            memory, search, curves, targets.

    Raises:
        ResultsError: no run there, or a damaged one.
        UsageError: no such table.
    """
    runs = find_runs(Path(path))
    if table == "summary":
        frames = [summarise(run).assign(run=run.path.name) for run in runs]
        return pd.concat(frames, ignore_index=True)
    if table not in TABLES:
        raise UsageError(f"no table '{table}': choose from summary, {', '.join(TABLES)}.")
    return read_runs(runs, table)
