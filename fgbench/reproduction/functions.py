"""Descent on test functions (Baydin et al. 2022, Fig. 2; Flügel et al. 2024, §4.2 and §4.3).

Every method takes its own step at its own learning rate. Steps are timed in a single process, so that
the intervals of time ratios do not include the spread between processes.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fgbench import functions, methods
from fgbench.measurement.clock import HostClock
from fgbench.measurement.interleave import (
    MINIMUM_ROUNDS,
    Arm,
    Sample,
    round_seconds,
    run_rounds,
    warm_up,
    with_block,
)
from fgbench.measurement.statistics import Estimate, median_interval
from fgbench.methods.steps.oracle import check_step
from fgbench.plan.config import REFERENCE
from fgbench.reproduction._function_cases import Case, cases_of, dtype_of
from fgbench.reproduction.suite import Note
from fgbench.running.messages import Failed, Message
from fgbench.running.reporting import failures_reported
from fgbench.store.csv_table import replace_bytes

KEY = ["function", "n", "method"]
CURVE_COLUMNS = [*KEY, "seed", "iteration", "seconds", "value", "best", "x0", "x1"]
TIMING_COLUMNS = [*KEY, "round", "position", "warm_up", "steps", "seconds"]
FIGURES = ("final", "best", "time_ratio")
POINTS = {True: 200, False: 40}  # of a curve; more for n = 2, where it is also drawn as a path
WHOLE_CURVES = 160  # so many seeds keep their curve; of those beyond, which narrow an interval, the two ends
# Short blocks in many rounds: in a long block the scheduler would let other programs in again and again.
BLOCK_SECONDS, MAXIMUM_ROUNDS, WARM_UP_SHARE = 5e-4, 300, 0.2
STEP_SECONDS = {True: 0.5e-3, False: 0.2e-3}  # by whether the method draws; on one core, eager


def seconds(settings: Mapping[str, Any]) -> float:
    """About how long `measure` takes on one core, in seconds.

    Args:
        settings: those of `measure`.

    Raises:
        UsageError: as `measure` does.
    """
    return sum(_case_seconds(case, settings) for case in cases_of(settings))


def measure(settings: Mapping[str, Any], folder: Path, note: Note) -> None:
    """Run every method of every case, and time their steps side by side.

    Writes `functions.csv.gz`, a thinned curve for each run (value, lowest value so far, seconds of the
    steps alone; for n = 2 the point), and `timing.csv.gz`, every timed block. A run whose value is no longer
    finite ends there, with the value inf.

    Args:
        settings: `cases` (tables of `function`, `n`, `learning_rates` by method spec, `iterations`, and of
            its own `seeds`, as in `Case`), `seeds`, `dtype` (float64 where left out),
            `timing_seconds` for each case.
        folder: an existing folder.
        note: is told what is being done and the share that is done.

    Raises:
        UsageError: a function, a size, a method or a dtype is unknown; raised before anything runs.
    """
    total, done = seconds(settings), 0.0
    dtype = dtype_of(settings)
    with (
        _table(folder, "functions", CURVE_COLUMNS) as add_curve,
        _table(folder, "timing", TIMING_COLUMNS) as add_samples,
    ):
        for case in cases_of(settings):
            for spec in case.learning_rates:
                runs = case.seeds_of(spec, settings["seeds"])
                for seed in runs:
                    note(f"{case.name}, {spec}, seed {seed + 1} of {len(runs)}", done / total)
                    add_curve(_run(case, spec, seed, dtype))
                    done += _run_seconds(case, spec)
            note(f"{case.name}, timing", done / total)
            samples, failures = _timed(case, dtype, settings["timing_seconds"])
            add_samples(samples)
            done += settings["timing_seconds"]
            for failure in failures:
                note(f"{case.name}, {failure}", done / total)
    note("done", 1.0)


def figure_names(settings: Mapping[str, Any]) -> set[str]:
    """The keys that `figures` gives; raises as `measure`."""
    return {
        f"{case.name}/{spec}/{figure}"
        for case in cases_of(settings)
        for spec in case.learning_rates
        for figure in FIGURES
    }


def figures(folder: Path) -> dict[str, Estimate]:
    """The figures in the CSVs of `measure`, by key.

    Returns:
        `function/n/method/final` and `…/best`: the median over seeds of the last and of the lowest value,
        inf where runs diverged, with an interval from 6 seeds on; a method that draws nothing has one
        value. `…/time_ratio`: the median over rounds of a step's time over backprop's in the same round,
        with its interval over the rounds of one process.
    """
    found = {}
    last = _read(folder, "functions").groupby([*KEY, "seed"], sort=False).tail(1)
    for key, ends in last.groupby(KEY, sort=False):
        name = "/".join(map(str, key))  # type: ignore[arg-type]
        found[f"{name}/final"] = median_interval(list(ends["value"]))
        found[f"{name}/best"] = median_interval(list(ends["best"]))
    timing = _read(folder, "timing")
    for (function, n), samples in timing[~timing["warm_up"]].groupby(["function", "n"], sort=False):
        times = samples.pivot(index="round", columns="method", values="seconds")
        for method in times.columns.drop(REFERENCE, errors="ignore") if REFERENCE in times else ():
            logs = np.log(times[method] / times[REFERENCE])
            found[f"{function}/{n}/{method}/time_ratio"] = median_interval(list(logs)).exponentiated()
    return found


def draw(folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
    """Draw charts of what `measure` wrote.

    Args:
        folder: holds the CSVs.
        out: an existing folder, which gets the charts as PNG.
        claims: the paper's values by figure key, drawn as hollow marks.

    Returns:
        The charts' paths.
    """
    from fgbench.charts.drawing.style import print_style, save
    from fgbench.reproduction._function_curves import curves_chart
    from fgbench.reproduction._function_figures import figures_chart

    found, charts, curves = figures(folder), {}, _read(folder, "functions")
    with print_style():
        for function, rows in curves[curves["seed"] < WHOLE_CURVES].groupby("function", sort=False):
            name, sizes = str(function), sorted({int(n) for n in rows["n"]})
            for n in sorted({sizes[-1], *(n for n in sizes if n == 2)}):
                charts[f"curves_{name}_n{n}"] = curves_chart(name, n, rows[rows["n"] == n], claims)
            charts[f"figures_{name}"] = figures_chart(
                name, sizes, list(rows["method"].unique()), found, claims
            )
        for stem, figure in charts.items():
            save(figure, out / f"{stem}.png")
    return [out / f"{stem}.png" for stem in charts]


def _read(folder: Path, table: str) -> pd.DataFrame:
    packed = folder / f"{table}.csv.gz"
    return pd.read_csv(packed if packed.exists() else packed.with_suffix(""))  # as older versions wrote it


def _case_seconds(case: Case, settings: Mapping[str, Any]) -> float:
    runs = sum(
        len(case.seeds_of(spec, settings["seeds"])) * _run_seconds(case, spec) for spec in case.learning_rates
    )
    return float(runs + settings["timing_seconds"])


def _run_seconds(case: Case, spec: str) -> float:
    return case.iterations * STEP_SECONDS[case.draws(spec)]


def _run(case: Case, spec: str, seed: int, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Run a method from one seed; gives a row for the start and for each point of the curve."""
    model, loss, batch = case.problem(dtype)
    step = methods.find(spec).prepare(model, loss, seed)
    step(batch, 0.0)  # a step of size zero: tracing and allocations are done before the clock runs
    rate, done, spent, best = case.learning_rates[spec], 0, 0.0, math.inf
    points = _thinned(case.iterations, POINTS[case.n == 2])
    for iteration in points if seed < WHOLE_CURVES else (0, case.iterations):
        losses: list[Tensor] = []
        begin = perf_counter()
        for _ in range(iteration - done):
            losses.append(step(batch, rate))
        spent += perf_counter() - begin if losses else 0.0
        done = iteration
        value = loss(model(batch[0]), batch[1]).detach()
        best = min(best, _lowest([*losses, value]))
        finite = bool(value.isfinite())
        x = [float(c) for c in model.x.detach()] if case.n == 2 else []
        yield {
            "function": case.function,
            "n": case.n,
            "method": spec,
            "seed": seed,
            "iteration": done,
            "seconds": f"{spent:.6g}",
            "value": f"{float(value):.9g}" if finite else "inf",
            "best": f"{best:.9g}",
            **{f"x{i}": f"{c:.6g}" for i, c in enumerate(x)},
        }
        if not finite:
            return


def _lowest(values: list[Tensor]) -> float:
    """The lowest of the values, without NaN; inf where all are NaN."""
    return float(torch.stack(values).nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf).min())


def _thinned(iterations: int, points: int) -> list[int]:
    """About `points` iterations from 0 to the last, denser at the beginning, where values change most."""
    evenly = np.linspace(0, iterations, points // 2 + 1)
    early = np.geomspace(1, iterations, points // 2)
    return sorted({round(i) for i in (*evenly, *early)})


def _timed(case: Case, dtype: torch.dtype, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Every timed block, and a line for each method that was not timed, because it failed or was wrong."""
    failures: list[str] = []

    def report(event: Message) -> None:
        if isinstance(event, Failed):
            failures.append(f"{event.method}: not timed. {event.detail}")

    clock, arms = HostClock(), []
    for spec in case.learning_rates:
        with failures_reported(report, spec):
            arms.append(with_block(Arm(spec, _checked(case, spec, dtype)), clock, BLOCK_SECONDS, minimum=1))
    if not arms:
        return [], failures
    rng, samples = random.Random(case.name), []
    for last in warm_up(arms, clock, rng, WARM_UP_SHARE * seconds):
        samples += last
    # The number of rounds is fixed before the first one, so that it does not depend on what they show.
    rounds = int(seconds * (1 - WARM_UP_SHARE) / round_seconds(last))
    for timed in run_rounds(arms, clock, min(max(rounds, MINIMUM_ROUNDS), MAXIMUM_ROUNDS), rng):
        samples += timed
    return [_block(case, sample) for sample in samples], failures


def _checked(case: Case, spec: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A method's step of size zero, checked against reverse mode and called once beforehand."""
    model, loss, batch = case.problem(dtype)
    with torch.no_grad():  # halfway to the minimum: at a start with value 0 there is no relative error
        model.x.lerp_(functions.find(case.function).minimizer(case.n).to(dtype), 0.5)
    check_step(methods.find(spec), model, loss, batch, seed=0)
    step = methods.find(spec).prepare(model, loss, 0)
    step(batch, 0.0)
    return partial(step, batch, 0.0)


def _block(case: Case, sample: Sample) -> dict[str, Any]:
    return {
        "function": case.function,
        "n": case.n,
        "method": sample.arm,
        "round": sample.round,
        "position": sample.position,
        "warm_up": sample.warm_up,
        "steps": sample.steps,
        "seconds": f"{sample.seconds:.6g}",
    }


@contextmanager
def _table(folder: Path, table: str, columns: list[str]) -> Iterator[Callable[[Any], None]]:
    """Write a CSV file, packed and whole at its end, as curves are megabytes; gives what adds rows."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, lineterminator="\n")
    writer.writeheader()
    yield writer.writerows
    replace_bytes(folder / f"{table}.csv.gz", gzip.compress(lines.getvalue().encode(), mtime=0))
