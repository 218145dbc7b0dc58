"""The Python API: compare methods on your own model, and load results as DataFrames."""

from __future__ import annotations

import math
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
from fgbench.errors import UsageError, in_one_line
from fgbench.measurement.lock import timing_lock
from fgbench.plan.config import PUBLISHED, REFERENCE, Config
from fgbench.running.client import WorkerDiedError, work
from fgbench.running.messages import Failed, Message, Noted, Refused
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


SECONDS_A_PROCESS = 1.5  # of timing; with fewer, another process is not worth the time that its start takes
MOST_PROCESSES = 5
FINDING_PROCESSES = 3  # the most processes that look for backprop's fastest update
WORTH_SHARE = 0.1  # this share of the seconds is added to compare estimates with the gradient
UPDATES_SHARE = 0.2  # this share of the seconds is added to find backprop's fastest update
HERE = (
    "measured in the calling process ({why}): its intervals leave out the spread between processes, freed "
    "pages are not kept, and float32 precision and threads are the caller's"
)
SLOW = (
    "estimates were not compared with the gradient, which would take {seconds:.1f} s: give "
    "max_measure_seconds={enough}"
)


def compare(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor] | None,
    batch: tuple[Tensor | Mapping[str, Any], Tensor] | Mapping[str, Any],
    methods: Sequence[str] | str = (REFERENCE, PUBLISHED),
    *,
    reference: str | None = None,
    max_measure_seconds: float = 10.0,
    seed: int = 0,
    execution: str = registered.PLAIN.execution,
    optimizer: str = Config.optimizer,
) -> pd.DataFrame:
    """Time a training step of each method on a model and a batch, interleaved, as `fgbench run` does.

    The steps are timed in up to five fresh processes, which keep freed pages, compute float32 in full
    precision and use as many threads as the caller. Before that, backprop's fastest update is found in up to
    three processes. Models and losses that a script or a notebook defines are sent to them whole. What cannot
    be pickled is timed in the calling process, and a warning says what that leaves out. The model is copied
    for each method; neither it nor the caller's settings are changed.

    Args:
        model: in training mode, on the batch's device; Hugging Face's models can be given as they are.
        loss: (output, target) → scalar. If the output is no tensor, torch's own losses are applied to its
            `logits`; if the targets are tokens, to those of each token (nothing is shifted). None stands for
            the loss that the model itself computes from `labels`.
        batch: (input, target), where the input may be tensors by name; or all tensors by name, as
            {"input_ids": …, "attention_mask": …, "labels": …}, whose `labels` are the target.
        methods: specs as in `fgbench run --method`; or a single one.
        reference: the method that ratios are formed over; by default backprop, or the first method if
            backprop is not among them.
        max_measure_seconds: about how long to time; processes take a few seconds each to start.
        seed: decides the tangents and the order of the steps.
        execution: eager, compile (torch.compile) or cudagraph (on a GPU), for all methods.
        optimizer: an optimiser of torch.optim for all methods, as in `fgbench run --optimizer`.

    Returns:
        A row for the base, each method as given, and the A/A repeat (`role` base, method, aa), with the
        `seconds` of a step, `r` and `ratio`, each with `_low` and `_high`, `processes`, `rounds`, and the
        `update` that was found fastest, if the method leaves it open. Methods also have `flops`,
        `floor_ratio`, `floor_share`, the `cosine` of their estimates with the batch's gradient, and the
        estimates' `second_moment` divided by that gradient's square. A method that failed has a row with
        `status` and `detail`; of one that was timed, `detail` names functions without a rule, for example.
        `attrs["left_out"]` says what the measurement leaves out; it is empty if it leaves out nothing.

    Raises:
        UsageError: there is no such method, option or optimiser, the time is not positive, or the batch or
            the loss does not fit the model.
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
    specs = registered.canonical_specs([methods] if isinstance(methods, str) else methods)
    if not specs:
        raise UsageError("methods: name at least one method.")
    if reference is not None:
        (reference,) = registered.canonical_specs([reference])
        if reference not in specs:
            raise UsageError(f"reference {reference}: must be among the methods, {', '.join(specs)}.")
    over = reference or (REFERENCE if REFERENCE in specs else specs[0])
    conditions = registered.Conditions(execution, optimizer)
    note = partial(warnings.warn, stacklevel=4)  # the line that called this
    comparison = Comparison(model, loss, batch, over, seed, conditions)
    with timing_lock(device, note), tempfile.TemporaryDirectory(prefix="fgbench-") as folder:
        return _compared(comparison, specs, max_measure_seconds, Path(folder) / "compared.pt")


def _compared(comparison: Comparison, specs: Sequence[str], seconds: float, stored: Path) -> pd.DataFrame:
    """Compare in fresh processes, or in this one if the model, loss or batch cannot be handed to others."""
    try:
        _store(comparison, stored)
        job = partial(_in_worker, stored, comparison)
        return _Told(comparison.over).measure(specs, seconds, comparison, job)
    except _NotElsewhereError as error:
        left_out = HERE.format(why=error)
    warnings.warn(f"fgbench.compare: {left_out}.", stacklevel=4)
    frame = _Told(comparison.over).measure(specs, seconds, comparison, comparison.do, most=1)
    frame.attrs["left_out"] = "; ".join(filter(None, (left_out, frame.attrs["left_out"])))
    return frame


class _NotElsewhereError(Exception):
    """What is compared cannot be handed to another process; the message says why."""


def _store(comparison: Comparison, file: Path) -> None:
    import cloudpickle  # which stores classes and functions of the caller's own script by value
    import torch

    compared = (comparison.model, comparison.loss, comparison.batch)
    try:
        torch.save(compared, file, pickle_module=cloudpickle)
    except Exception as error:  # pickle raises whatever the objects do
        raise _NotElsewhereError(f"what is compared cannot be pickled, {in_one_line(error)}") from error


Job = Callable[[str, Sequence[str], "dict[str, str]", float, int, Any], None]
"""Work in one process: (what to find, methods, updates, seconds, process number, report)."""


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
    """Collects what the processes report, and makes a table from it."""

    def __init__(self, over: str) -> None:
        self.over = over
        self.modes: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.failed: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, str] = {}
        self.costs: list[dict[str, Any]] = []
        self.worth: list[dict[str, Any]] = []
        self.left_out = ""
        self.process = 0

    def __call__(self, event: Message) -> None:
        from fgbench.running.arms import Samples
        from fgbench.running.phases.cost import Counted
        from fgbench.running.phases.modes import Mode
        from fgbench.running.phases.quality import Estimated, TooSlow

        match event:
            case Mode():
                self.modes.append({"process": self.process, **asdict(event)})
            case Failed():
                self.failed.setdefault(event.method, {"role": Role.METHOD, **asdict(event)})
            case Noted():
                self.notes[event.method] = "; ".join(event.notes)
            case Counted():
                self.costs.append(asdict(event))
            case Estimated():
                self.worth.append(asdict(event))
            case TooSlow():
                self.left_out = SLOW.format(
                    seconds=event.seconds, enough=math.ceil(event.seconds / WORTH_SHARE)
                )
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
        """Find the fastest updates, then time the steps, in as many processes as the seconds allow.

        A method that fails is not tried again. At the end, one process finds the least cost of each step and
        the quality of its estimates.
        """
        from fgbench.running.comparison import TIME, UPDATES, WORTH

        count = max(1, min(most, int(seconds / SECONDS_A_PROCESS)))
        updates: dict[str, str] = {}
        if comparison.leaves_open(specs):
            finding = min(count, FINDING_PROCESSES)
            for self.process in range(finding):
                job(UPDATES, specs, {}, UPDATES_SHARE * seconds / finding, self.process, self)
            self.failed = {}  # if a way to update ended a process, the method may still be timed
            updates = {c.method: c.update for c in choices(pd.DataFrame(self.modes))} if self.modes else {}
        for self.process in range(count):
            left = [spec for spec in specs if spec not in self.failed]
            if left:
                job(TIME, left, updates, seconds / count, self.process, self)
        failed = dict(self.failed)
        if left := [spec for spec in specs if spec not in failed]:
            job(WORTH, left, updates, WORTH_SHARE * seconds, count, self)
        self.failed = failed  # methods that failed only here were timed, and keep their times
        found = ratios(pd.DataFrame(self.samples), self.over, pilot=count) if self.samples else []
        rows = [{**r.row(), "status": "ok", **self._more(r)} for r in found]
        place = {spec: number for number, spec in enumerate(specs)}  # and the base before them
        rows = [*rows, *self.failed.values()]
        rows.sort(key=lambda row: (row["role"] == Role.AA, place.get(row["method"], -1)))
        frame = pd.DataFrame(rows)
        frame["update"] = frame["method"].map(updates)
        frame.attrs["left_out"] = self.left_out
        return frame

    def _more(self, ratio: Ratio) -> dict[str, Any]:
        """Notes, the cost of a step and the quality of its estimates; only a method's own row has them."""
        if ratio.role != Role.METHOD:
            return {"detail": ""}
        cost = pd.DataFrame(self.costs, columns=list(TABLES["cost"]))
        quality = pd.DataFrame(self.worth, columns=list(TABLES["quality"]))
        return {
            "detail": self.notes.get(ratio.method, ""),
            **cost_cells(cost, ratio.seconds, ratio.method, self.over),
            **worth_cells(quality, ratio.method, self.over),
        }


def load(path: str | os.PathLike[str], table: str = "summary") -> pd.DataFrame:
    """Load the results of one run, or of all runs below a folder, as a DataFrame.

    Args:
        path: a run's folder, or any folder above it.
        table: `summary` (a row for each method of each group), or a CSV's name: jobs, samples, load, modes,
            variants, parts, ratios, memory, cost, quality, search, curves, targets.

    Raises:
        ResultsError: there is no run there, or one is damaged.
        UsageError: there is no such table.
    """
    runs = find_runs(Path(path))
    if table == "summary":
        frames = [summarise(run).assign(run=run.path.name) for run in runs]
        return pd.concat(frames, ignore_index=True)
    if table not in TABLES:
        raise UsageError(f"no table '{table}': choose from summary, {', '.join(TABLES)}.")
    return read_runs(runs, table)
