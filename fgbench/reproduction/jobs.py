"""Experiments that are matched jobs, measured as `fgbench run` measures them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate
from fgbench.methods import canonical_specs
from fgbench.plan import Config, Group, Plan, make_plan
from fgbench.plan.group import ALL
from fgbench.plan.plan import groups_of
from fgbench.reproduction import pilot
from fgbench.reproduction.reach import hours_of
from fgbench.reproduction.suite import Note
from fgbench.running.duration import expected_seconds, seconds_of
from fgbench.running.pretraining import BATCH, OPTIMIZER, RATE, begin
from fgbench.running.run import run_plan
from fgbench.running.start import contracts_of, new_run
from fgbench.store.run_folder import RunFolder, find_runs
from fgbench.summary.table import summarise

FIGURES = ("ratio", "r", "t_ratio", "n_ratio", "t", "validation_loss", "lowest_loss", "rise")
# What a paper's run has where its suite says nothing else: the main job's own defaults may change.
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
PLAIN = (  # without an interval
    *("peak_bytes", "activation_bytes", "flop_ratio", "learning_rate", "validation_accuracy"),
    "diverged_share",
)
PRETRAINING_SECONDS = 0.25  # of a step of the byte transformer of 1M parameters, about
PRETRAIN = "pretrain"  # a setting: the weights that every run begins from, made first
RATES, SEARCH = "learning_rates", "search"  # a setting: by method; and what learning_rate may say


def configs(settings: Mapping[str, Any]) -> dict[str, Config]:
    """A config a run, by its name: what `all` and the scale say, over it what the run says itself.

    Keys of a run are the fields of `Config`, lists for tuples; a table `learning_rates` stands for the
    methods with a rate for each, and a learning_rate "search" for none. `pretrain` is not a run's: its
    dataset and steps are of a model like the first run's, which is made before.

    Raises:
        UsageError: an option that a run does not have.
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
    """About how long: the budgets of its runs."""
    runs = sum(
        seconds_of(config, len(config.archs) * len(config.depths or (0,)) * len(config.batches))
        for config in configs(settings).values()
    )
    return runs + PRETRAINING_SECONDS * settings.get(PRETRAIN, {"steps": 0})["steps"]


def seconds_here(settings: Mapping[str, Any]) -> float:
    """About how many seconds it takes here at most: each method takes a few steps for it."""
    return sum(map(pilot.seconds_here, configs(settings).values()))


class _Told:
    """A watcher that passes on how far a run is."""

    def __init__(self, note: Note, done: float, share: float, total: float) -> None:
        self.note_to, self.done, self.share, self.total = note, done, share, max(total, 1e-9)
        self.spent = self.now = 0.0

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """The one before is over."""
        self.spent += self.now
        self.now = seconds
        self._tell(f"{group.name}: {text}", 0.0)

    def progress(self, share: float, text: str) -> None:
        """Within the phase."""
        self._tell(text, share * self.now)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._tell(text, 0.0)

    def _tell(self, text: str, more: float) -> None:
        self.note_to(text, self.done + self.share * min((self.spent + more) / self.total, 1.0))


def measure(settings: Mapping[str, Any], folder: Path, note: Note) -> None:
    """A run's folder for each, in a folder of the run's name; what is finished is not measured again."""
    found = configs(settings)
    if PRETRAIN in settings:
        start = str(_pretrained(settings[PRETRAIN], next(iter(found.values())), folder, note))
        found = {name: replace(config, start=start) for name, config in found.items()}
    plans = {name: make_plan(config) for name, config in found.items()}
    whole = sum(expected_seconds(plan) for plan in plans.values())
    done = 0.0
    for name, plan in plans.items():
        share = expected_seconds(plan) / whole
        run, contracts = _begun(plan, folder / name)
        if run.facts()["status"] != "done":
            run_plan(plan, run, contracts, _Told(note, done, share, expected_seconds(plan)))
        done += share


def _pretrained(how: Mapping[str, Any], config: Config, folder: Path, note: Note) -> Path:
    """The file of a model that was trained with backprop; made once."""
    path = folder / f"{PRETRAIN}.pt"
    if not path.exists():
        own = replace(config, dataset=how["dataset"], optimizer=OPTIMIZER, batch=BATCH, trained=ALL)
        model = begin(own, 0, how["steps"])
        for point in model.points(RATE):
            note(f"pretraining, validation loss {point.validation_loss:.3g}", 0.0)
        model.save(path)
    return path


def _begun(plan: Plan, folder: Path) -> tuple[RunFolder, dict[str, str]]:
    """The run that an earlier try left there, if it is of the same things; else a new one."""
    contracts = contracts_of(plan)
    for run in reversed(find_runs(folder) if folder.is_dir() else []):
        facts = run.facts()
        asked = replace(Config.from_facts(facts["config"]), data_dir=plan.config.data_dir)
        found = {group["name"]: group["contract"] for group in facts["groups"]}
        if (found, asked) == (contracts, plan.config):
            return run, contracts
    return new_run(plan, folder)


def figure_names(settings: Mapping[str, Any]) -> set[str]:
    """Those of `figures`, of every run, group and method.

    Raises:
        UsageError: an option, a method or an architecture that there is none.
    """
    return {
        f"{name}/{group.name}/{method}/{figure}"
        for name, config in configs(settings).items()
        for group in groups_of(config, "cpu", 1)
        for method in canonical_specs(config.methods)
        for figure in (*FIGURES, *PLAIN)
    }


def figures(folder: Path) -> dict[str, Estimate]:
    """`run/group/method/figure`, the figures being those of `summarise`."""
    found: dict[str, Estimate] = {}
    for name, run in _runs(folder):
        for _, row in summarise(run).iterrows():
            stem = f"{name}/{row['group']}/{row['method']}"
            for figure in (*FIGURES, *PLAIN):
                ends = (figure, f"{figure}_low", f"{figure}_high")[: 1 if figure in PLAIN else 3]
                cells = [math.nan if pd.isna(row[end]) else float(row[end]) for end in ends]
                if not math.isnan(cells[0]):
                    found[f"{stem}/{figure}"] = Estimate(*cells)
    return found


def takes(figure: str, settings: Mapping[str, Any], folder: Path) -> str:
    """What it would take to measure a figure with other settings, by the steps that were timed; or empty."""
    name, group, method, _ = figure.split("/")
    config = configs(settings).get(name)
    return hours_of(config, group, method, [run for _, run in _runs(folder)]) if config else ""


def draw(folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
    """The charts that `fgbench plot` draws of its runs; the paper's curves are on those that have one."""
    from fgbench.charts import draw_all

    found: list[Path] = []
    for name, run in _runs(folder):
        found += [drawn.path for drawn in draw_all([run], out / name) if drawn.path]
    return found


def _runs(folder: Path) -> Iterator[tuple[str, RunFolder]]:
    """The latest run of each name."""
    for own in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield own.name, find_runs(own)[-1]
