"""Find how far predicted ratios are off: for twelve models they are predicted and measured on this CPU.

    python -m fgbench.experiments.prediction --out results/prediction

The ratio that `fgbench predict` derives from a run's counts is compared with the ratio that the same process
measures. Each model has a fresh process. The machine should be quiet, because the prediction rests on timed
rates of this machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.experiments.count_and_time import CountAndTime, CountAndTimeRequest
from fgbench.measurement.cost import COUNTS, Work
from fgbench.measurement.environment import describe_environment
from fgbench.measurement.prediction import Device, predict
from fgbench.plan import Group
from fgbench.plan.config import default_data_dir
from fgbench.running.arms import Samples
from fgbench.running.choices import Choices
from fgbench.running.client import work
from fgbench.running.messages import Message
from fgbench.running.phases.cost import Counted
from fgbench.store.experiment import store_experiment
from fgbench.store.schema import BASE, Role
from fgbench.summary.ratios import ratios

BACKPROP = "backprop:update=direct"  # a fixed update, so that the same step is counted and timed
METHODS = (BACKPROP, "forward", "forward:structure=rank-one")
MODELS = (  # architecture, depth, width, batch
    ("logreg", 1, 1, 64),
    ("mlp", 1, 256, 64),
    ("mlp", 2, 1024, 64),
    ("mlp", 2, 1024, 1024),
    ("mlp", 8, 256, 64),
    ("mlp", 8, 1024, 64),
    ("mlp", 8, 1024, 512),
    ("mlp", 32, 256, 64),
    ("cnn", 2, 32, 64),
    ("cnn", 4, 64, 64),
    ("cnn", 4, 64, 16),
    ("vit", 2, 128, 32),
)
WANTED = 0.15  # the median error should be at most this


def compared(groups: Sequence[Group], seconds: float, data_dir: str) -> Iterator[dict[str, Any]]:
    """Measure the groups; gives a row with predicted and measured ratio for each method of each group."""
    for group in groups:
        request = CountAndTimeRequest(
            group=group,
            data_dir=data_dir,
            seed=0,
            methods=METHODS,
            choices=Choices(),
            over=BACKPROP,
            seconds=seconds,
        )
        yield from rows_of(group.name, work(CountAndTime(), request))


def rows_of(name: str, events: Iterator[Message]) -> Iterator[dict[str, Any]]:
    """The rows of one group, from the events that its process reports."""
    steps: dict[str, float] = {}
    samples: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Counted):
            steps[event.method] = _seconds(event)
        if isinstance(event, Samples):
            samples += [{"process": 0, **asdict(sample)} for sample in event.samples]
    measured = ratios(pd.DataFrame(samples), BACKPROP, pilot=1)
    for found in measured:
        if found.role == Role.METHOD and found.method in steps:
            ratio = steps[found.method] / steps[BACKPROP]
            yield {
                "model": name,
                "method": found.method,
                "r_predicted": steps[found.method] / steps[BASE],
                "r_measured": found.r.value,
                "ratio_predicted": ratio,
                "ratio_measured": found.ratio.value,
                "error": ratio / found.ratio.value - 1,
            }


def _seconds(counted: Counted) -> float:
    counts = {name: getattr(counted, name) for name in COUNTS}
    machine = Device(
        counted.flops_per_second,
        counted.bytes_per_second,
        counted.launch_seconds,
        counted.random_per_second,
        queued=False,
    )
    return predict(Work(**counts, products=frozenset()), machine).seconds


def findings(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median and the largest absolute error of the ratios, and whether the median is small enough."""
    others = pd.DataFrame([row for row in rows if row["method"] != BACKPROP])
    errors = others["error"].abs()
    by_method = errors.groupby(others["method"]).median()
    return {
        "median_error": float(errors.median()),
        "largest_error": float(errors.max()),
        "median_error_by_method": {str(name): float(value) for name, value in by_method.items()},
        "wanted": WANTED,
        "as_wanted": bool(errors.median() <= WANTED),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store `prediction.csv` and `prediction.json`, and print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/prediction"), help="folder of the table")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of timing for each model")
    parser.add_argument("--models", type=int, default=len(MODELS), help="how many of the models to measure")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    asked = parser.parse_args(arguments)
    groups = [
        Group(arch, depth, width, batch, "digits", 200, "float32", "cpu", asked.threads)
        for arch, depth, width, batch in MODELS[: asked.models]
    ]
    rows = []
    for row in compared(groups, asked.seconds, default_data_dir()):
        rows.append(row)
        figures = f"{row['ratio_predicted']:8.3f} predicted {row['ratio_measured']:8.3f} measured"
        print(f"{row['model']:24} {row['method']:28} {figures} {row['error']:+8.1%}", flush=True)
    found = findings(rows)
    facts = {"environment": describe_environment("cpu", asked.threads), **found}
    store_experiment(asked.out, "prediction", rows, facts)
    print(
        f"median error {found['median_error']:.1%}, largest {found['largest_error']:.1%}; wanted {WANTED:.0%}"
    )


if __name__ == "__main__":
    main()
