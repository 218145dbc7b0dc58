"""Experiments that are matched jobs, measured just as `fgbench run` measures them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate
from fgbench.methods import canonical_specs
from fgbench.plan import Config, Group, Plan, make_plan
from fgbench.plan.defaults import PRETRAINING_BATCH, PRETRAINING_OPTIMIZER, PRETRAINING_RATE
from fgbench.plan.group import ALL
from fgbench.plan.plan import groups_of
from fgbench.reproduction import pilot
from fgbench.reproduction.reach import hours_of
from fgbench.reproduction.suite import Note, run_of
from fgbench.running.duration import expected_seconds, seconds_of
from fgbench.running.pretraining import begin
from fgbench.running.run import run_plan
from fgbench.running.start import contracts_of, new_run
from fgbench.store.jobs import curves_to_the_end, within_budget
from fgbench.store.run_folder import RunFolder, find_runs
from fgbench.summary.losses import LOSSES, losses_of_runs
from fgbench.summary.table import summarise

FIGURES = ("ratio", "r", "t_ratio", "n_ratio", "t", "validation_loss", "lowest_loss", "rise")
# A paper's run has these settings unless its suite says otherwise. They do not follow the defaults of
# `fgbench run`, so that these may change.
SETTLED: Mapping[str, Any] = {
    "methods": ("backprop", "forward"),
    "batch": 64,
    "seeds": 3,
    "target_loss": "auto",
    "max_train_seconds": 6.0,
    "max_measure_seconds": 45.0,
    "processes": 5,
    "execution": "eager",
}
PLAIN = (  # figures without an interval
    *("peak_bytes", "activation_bytes", "flop_ratio", "learning_rate", "validation_accuracy"),
    *("diverged_share", "non_finite", "chance_loss", "fall"),
)
PRETRAINING_SECONDS = 0.25  # about what a step of the byte transformer of 1M parameters takes
PRETRAIN = "pretrain"  # this setting says how to make the weights that every run begins from
RATES = "learning_rates"  # this setting gives a rate for each method
SEARCH = "search"  # the setting learning_rate may have this value


def configs(settings: Mapping[str, Any]) -> dict[str, Config]:
    """The config of each run, by the run's name; a run's own settings override those that all runs share.

    The keys of a run are the fields of `Config`, with lists for tuples. A table `learning_rates` names the
    methods and gives each a rate; a learning_rate of "search" has the rates searched. The setting `pretrain`
    belongs to no run: it gives the dataset and the number of steps on which a model like the first run's is
    trained beforehand. A run `name+part` is a part of the run `name` that is measured on its own, as the
    whole takes many hours; its figures are those of `name`.

    Raises:
        UsageError: an option is no field of `Config`.
    """
    shared = {key: value for key, value in settings.items() if key not in ("runs", PRETRAIN)}
    return {name: _config({**shared, **own}) for name, own in settings["runs"].items()}


def _config(options: Mapping[str, Any]) -> Config:
    options = dict(options)
    if rates := options.pop(RATES, None):
        options |= {"methods": list(rates), "learning_rate": list(rates.values())}
    if options.get("learning_rate") == SEARCH:
        options["learning_rate"] = None
    if unknown := options.keys() - {field.name for field in fields(Config)}:
        raise UsageError(f"a run has no option {', '.join(sorted(unknown))}.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return Config(**{**SETTLED, **values})


def seconds(settings: Mapping[str, Any]) -> float:
    """About how long `measure` takes, in seconds, from the budgets of its runs."""
    runs = sum(
        seconds_of(config, len(config.archs) * len(config.depths or (0,)) * len(config.batches))
        for config in configs(settings).values()
    )
    return runs + PRETRAINING_SECONDS * settings.get(PRETRAIN, {"steps": 0})["steps"]


def seconds_here(settings: Mapping[str, Any]) -> float:
    """About how many seconds it takes here at most, estimated by a few steps of each method."""
    return sum(map(pilot.seconds_here, configs(settings).values()))


class _Told:
    """A watcher that reports the progress of one run as a share of the whole experiment.

    Args:
        note: is told what is being done, and which share of the experiment is done.
        done: the share of the experiment that earlier runs have done.
        share: the share of the experiment that this run makes up.
        total: how many seconds this run is expected to take.
    """

    def __init__(self, note: Note, done: float, share: float, total: float) -> None:
        self.note_to, self.done, self.share, self.total = note, done, share, max(total, 1e-9)
        self.spent = self.now = 0.0

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """Note that a phase begins and the one before it has ended."""
        self.spent += self.now
        self.now = seconds
        self._tell(f"{group.name}: {text}", 0.0)

    def progress(self, share: float, text: str) -> None:
        """Report a share of the current phase as done."""
        self._tell(text, share * self.now)

    def note(self, text: str) -> None:
        """Pass on a message."""
        self._tell(text, 0.0)

    def _tell(self, text: str, more: float) -> None:
        self.note_to(text, self.done + self.share * min((self.spent + more) / self.total, 1.0))


def measure(settings: Mapping[str, Any], folder: Path, note: Note) -> None:
    """Measure every run into the folder `folder`/run name, except what an earlier try has finished."""
    found = configs(settings)
    if PRETRAIN in settings:
        start = str(_pretrained(settings[PRETRAIN], next(iter(found.values())), folder, note))
        found = {name: replace(config, start=start) for name, config in found.items()}
    plans = {name: make_plan(config) for name, config in found.items()}
    total = sum(expected_seconds(plan) for plan in plans.values())
    done = 0.0
    for name, plan in plans.items():
        share = expected_seconds(plan) / total
        run, contracts = _begun(plan, folder / name)
        if run.facts()["status"] != "done":
            run_plan(plan, run, contracts, _Told(note, done, share, expected_seconds(plan)))
        done += share


def _pretrained(how: Mapping[str, Any], config: Config, folder: Path, note: Note) -> Path:
    """The file of a model pretrained with backprop; it is made if it is not there yet."""
    path = folder / f"{PRETRAIN}.pt"
    if not path.exists():
        own = replace(
            config,
            dataset=how["dataset"],
            optimizer=PRETRAINING_OPTIMIZER,
            batch=PRETRAINING_BATCH,
            trained=ALL,
        )
        model = begin(own, 0, how["steps"])
        for point in model.points(PRETRAINING_RATE):
            note(f"pretraining, validation loss {point.validation_loss:.3g}", 0.0)
        model.save(path)
    return path


def _begun(plan: Plan, folder: Path) -> tuple[RunFolder, dict[str, str]]:
    """The run that an earlier try left, finished or not, if it has the same config; otherwise a new one."""
    contracts = contracts_of(plan)
    for run in reversed(find_runs(folder) if folder.is_dir() else []):
        facts = run.facts()
        asked = replace(Config.from_facts(facts["config"]), data_dir=plan.config.data_dir)
        found = {group["name"]: group["contract"] for group in facts["groups"]}
        if (found, asked) == (contracts, plan.config):
            return run, contracts
    return new_run(plan, folder)


def figure_names(settings: Mapping[str, Any]) -> set[str]:
    """The keys that `figures` gives, for every run, group and method.

    Raises:
        UsageError: an option, a method or an architecture is unknown.
    """
    return {
        f"{run_of(name)}/{group.name}/{method}/{figure}"
        for name, config in configs(settings).items()
        for group in groups_of(config, "cpu", 1)
        for method in canonical_specs(config.methods)
        for figure in (*FIGURES, *PLAIN)
    }


def figures(folder: Path) -> dict[str, Estimate]:
    """What was measured, by `run/group/method/figure`; the figures are columns of `summarise`."""
    found: dict[str, Estimate] = {}
    for name, run in _runs(folder):
        for _, row in summarise(run).iterrows():
            stem = f"{run_of(name)}/{row['group']}/{row['method']}"
            for figure in (*FIGURES, *PLAIN):
                ends = (figure, f"{figure}_low", f"{figure}_high")[: 1 if figure in PLAIN else 3]
                cells = [math.nan if pd.isna(row[end]) else float(row[end]) for end in ends]
                if not math.isnan(cells[0]):
                    found[f"{stem}/{figure}"] = Estimate(*cells)
    return found


def by_seed(folder: Path) -> dict[str, dict[int, float]]:
    """Losses by the keys of `figures` and by seed, of methods none of whose runs diverged."""
    found: dict[str, dict[int, float]] = {}
    for name, run in _runs(folder):
        curves = curves_to_the_end(within_budget(run.read("curves")), run.read("jobs"))
        for (group, method), own in curves.groupby(["group", "method"], sort=False):
            last = losses_of_runs(own).set_index("seed")[list(LOSSES)]
            if np.isfinite(last["validation_loss"]).all():
                stem = f"{run_of(name)}/{group}/{method}"
                found |= {f"{stem}/{figure}": dict(last[figure]) for figure in LOSSES}
    return found


def takes(figure: str, settings: Mapping[str, Any], folder: Path) -> str:
    """How long a figure with these settings would take, by the steps that were timed; empty if not known."""
    name, group, method, _ = figure.split("/")
    for part, config in configs(settings).items():
        if run_of(part) == name and method in canonical_specs(config.methods):
            return hours_of(config, group, method, [run for _, run in _runs(folder)])
    return ""


def draw(folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
    """Draw the charts that `fgbench plot` draws; a chart with a published curve shows it."""
    from fgbench.charts import draw_all

    found: list[Path] = []
    for name, run in _runs(folder):
        found += [drawn.path for drawn in draw_all([run], out / name) if drawn.path]
    return found


def _runs(folder: Path) -> Iterator[tuple[str, RunFolder]]:
    """The latest run of each name."""
    for own in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield own.name, find_runs(own)[-1]
