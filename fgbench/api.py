"""The Python API: compare methods on a model of one's own, load results as DataFrames."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fgbench import methods as registered
from fgbench.errors import UsageError
from fgbench.store.run_folder import find_runs, read_runs
from fgbench.store.schema import TABLES
from fgbench.summary.ratios import AA_ROLE, BASE_ROLE, METHOD_ROLE, ratios
from fgbench.summary.table import summarise

if TYPE_CHECKING:
    from torch import Tensor, nn


def compare(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    methods: Sequence[str] = ("backprop", "forward"),
    *,
    reference: str | None = None,
    max_measure_seconds: float = 10.0,
    seed: int = 0,
    execution: str = "eager",
    optimizer: str = "sgd",
) -> pd.DataFrame:
    """Time a training step of each method on a model and a batch, interleaved, in this process.

    The model is copied for each method and stays as it is. One process is one sample: the intervals
    hold for this process, `fgbench run` adds the spread between processes.

    Args:
        model: in training mode, on the batch's device.
        loss: (output, target) → scalar.
        batch: (input, target).
        methods: specs as in `fgbench run --method`.
        reference: the method that ratios are over; backprop, or the first where it is not among them.
        max_measure_seconds: about how long to time.
        seed: of the tangents and of the order.
        execution: eager, compile (torch.compile) or cudagraph (on a GPU), for all.
        optimizer: of torch.optim, for all, as in `fgbench run --optimizer`.

    Returns:
        A row for each method, the base and the A/A repeat (`role` method, base, aa): `seconds` a step,
        `r`, `ratio` with `_low` and `_high`, `rounds`; and a row with `status` and `detail` for a
        method that failed.

    Raises:
        UsageError: no such method, option or optimiser, or a time that is not positive.
    """
    from fgbench.methods._optimizer import canonical_optimizer
    from fgbench.worker.timing import AA, BASE, Problem, time_methods

    if not max_measure_seconds > 0:
        raise UsageError(f"max_measure_seconds {max_measure_seconds}: must be positive.")
    registered.check_execution("execution", execution, str(batch[0].device))
    optimizer = canonical_optimizer(optimizer)
    specs = registered.canonical_specs(methods)
    if not specs:
        raise UsageError("methods: name at least one method.")
    if reference is not None:
        (reference,) = registered.canonical_specs([reference])
        if reference not in specs:
            raise UsageError(f"reference {reference}: must be among the methods, {', '.join(specs)}.")
    over = reference or ("backprop" if "backprop" in specs else specs[0])
    samples: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []

    def report(event: str, **facts: Any) -> None:
        if event == "failed":
            failed.append({"role": METHOD_ROLE, **facts})
        if event == "samples":
            for sample in facts["samples"]:
                arm = sample["arm"]
                role = {BASE: BASE_ROLE, AA: AA_ROLE}.get(arm, METHOD_ROLE)
                samples.append({**sample, "process": 0, "role": role, "method": over if arm == AA else arm})

    conditions = registered.Conditions(execution, optimizer)
    problem = Problem(model, loss, [batch], seed, lambda _: conditions)
    time_methods(problem, specs, over, process=0, seconds=max_measure_seconds, report=report)
    found = ratios(pd.DataFrame(samples), over, pilot=1)
    return pd.DataFrame([*({**r.row(), "status": "ok"} for r in found), *failed])


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
        raise UsageError(f"no table '{table}': there are summary, {', '.join(TABLES)}.")
    return read_runs(runs, table)
