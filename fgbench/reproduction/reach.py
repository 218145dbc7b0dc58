"""Estimate how long a figure that is out of reach would take, from steps that were timed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from fgbench import architectures, methods
from fgbench.plan import Config, Group
from fgbench.plan.config import REFERENCE
from fgbench.plan.plan import groups_of
from fgbench.specs.options import split_spec
from fgbench.store.jobs import within_budget
from fgbench.store.run_folder import RunFolder
from fgbench.summary.ratios import Role

SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}
CLASSES = 10


@dataclass(frozen=True)
class _Timed:
    """A method's step in a stored run.

    Attributes:
        size: architecture, depth, width, batch and dataset of its group.
        method: the method's spec.
        seconds: how long the step takes.
        machine: the machine in words.
    """

    size: tuple[str, int, int, int, str]
    method: str
    seconds: float
    machine: str


def hours_of(config: Config, group: str, method: str, runs: Sequence[RunFolder]) -> str:
    """How long all runs of a method in a group would take, and how that was estimated; empty if not known.

    Args:
        config: the config that would give the figure.
        group: the name of the figure's group.
        method: the figure's method.
        runs: the runs in which steps were timed.
    """
    wanted = next((own for own in groups_of(config, "cpu", 1) if own.name == group), None)
    timed = [step for run in runs for step in _timed(run)]
    if wanted is None or config.max_iterations is None or not timed:
        return ""
    found = _step(wanted, method, timed)
    if found is None:
        return ""
    seconds, machine, how = found
    hours = config.seeds * config.max_iterations * seconds / 3600
    return f"about {_rounded(hours)} h on {machine}, by {how}"


def _step(wanted: Group, method: str, timed: Sequence[_Timed]) -> tuple[float, str, str] | None:
    """Seconds of a step, the machine, and in words how the seconds were estimated; None if not known."""
    size = _size(wanted)
    alike = [step for step in timed if step.size[:2] == size[:2]]
    passes = methods.find(method).queries / methods.find(REFERENCE).queries
    for name, factor, how in (
        (method, 1.0, "its steps as timed here"),
        (REFERENCE, passes, f"{REFERENCE}'s steps as timed here, scaled by the number of passes"),
    ):
        own = [step for step in alike if step.method == name]
        same = [step for step in own if step.size[:4] == size[:4]]
        if same and split_spec(same[-1].size[4])[0] == split_spec(size[4])[0]:
            return same[-1].seconds * factor, same[-1].machine, how
        works = [(work, step) for step in own if (work := _work(step.size)) is not None]
        target = _work(size)
        if works and target is not None:
            work, step = max(works, key=lambda pair: pair[0])
            return step.seconds * factor * target / work, step.machine, f"{how}, scaled by operations"
    return None


def _timed(run: RunFolder) -> list[_Timed]:
    facts, found = run.facts(), []
    ratios, curves = run.read("ratios"), within_budget(run.read("curves"))
    for group in facts["groups"]:
        device = group.get("device_name", facts["environment"]["device_name"])
        threads = group["threads"]
        machine = f"{threads} thread{'s' * (threads > 1)} of {device}"
        size = tuple(group[key] for key in ("arch", "depth", "width", "batch", "dataset"))
        for method in facts["config"]["methods"]:
            own = [t[(t["group"] == group["name"]) & (t["method"] == method)] for t in (ratios, curves)]
            if seconds := _seconds(*own):
                found.append(_Timed(size, method, seconds, machine))
    return found


def _seconds(ratios: pd.DataFrame, curves: pd.DataFrame) -> float | None:
    """Seconds of a step: as it was timed or, if it was not timed, from training."""
    steps = ratios[ratios["role"] == Role.METHOD]["seconds"].dropna()
    if len(steps):
        return float(steps.iloc[0])
    last = curves.groupby("job", sort=False).tail(1)
    last = last[last["iteration"] > 0]
    return float((last["train_seconds"] / last["iteration"]).median()) if len(last) else None


def _size(group: Group) -> tuple[str, int, int, int, str]:
    return group.arch, group.depth, group.width, group.batch, group.dataset


@cache
def _work(size: tuple[str, int, int, int, str]) -> int | None:
    """Floating-point operations of a forward pass over a batch of images; None for other data."""
    arch, depth, width, batch, dataset = size
    shape = SHAPES.get(split_spec(dataset)[0])
    if shape is None:
        return None
    model = architectures.build(arch, depth, width, shape, CLASSES)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, *shape))
    return int(counter.get_total_flops() / 2 * batch)


def _rounded(hours: float) -> str:
    """The hours, rounded to two digits."""
    return f"{float(f'{hours:.2g}'):g}"
