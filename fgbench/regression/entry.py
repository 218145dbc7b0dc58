"""One ratio with all that makes it comparable, from one run or as the mean of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from fgbench.measurement.statistics import NOTHING, Estimate, t_quantile
from fgbench.methods import PLAIN
from fgbench.plan.config import REFERENCE
from fgbench.plan.group import ALL, name_of
from fgbench.store.run_folder import NAMES

# IDENTITY says which ratio a row holds; CONDITIONS have to be equal for two rows to be comparable.
IDENTITY = (
    *("arch", "dataset", "depth", "width", "batch", "optimizer", "method", "reference"),
    *("trained", "start", "memory_budget"),
)
CONDITIONS = (
    *("device", "dtype", "threads", "execution", "torch", "cuda", "cudnn", "cores", "power_limit"),
    *("data", "source", "fgbench"),
)
# Of entries without `data`.
OLDER_CONDITIONS = ("device", "dtype", "threads", "execution", "torch", "fgbench")


@dataclass(frozen=True, order=True)
class Entry:
    """The ratio of one method of one matched group, from one run or as the mean of several.

    Attributes, where the name does not explain them:
        device: the processor's or the GPU's name.
        threads, cores: threads used and cores usable; empty on a GPU.
        cuda, cudnn, power_limit: empty on a CPU.
        ratio, low, high: the ratio to the reference with its 95 % interval.
        degrees: the interval's degrees of freedom.
        runs: how many runs the ratio is the mean of.
        spread: standard deviation of the logarithms of the runs' ratios; 0 for one run.
        within: standard error of the logarithm of one run's ratio, from its processes.
        floor: how far the A/A repeat may be from 1, by its own interval.
        data, source: hashes of the dataset, and of the files of a user's own model.
        chosen: what `best` or the search chose for the method and for the reference, if they had a choice.
        trained, start, memory_budget: which parameters are trained, the file of weights that all begin from,
            and the budget in bytes; the last two are empty where there is none.
        validation_size: most samples that are held out; empty in older baselines.
        ids: the beginnings of the runs' ids, with blanks between; empty where they have none.
        fault: why there is no ratio to compare; never stored in a baseline.
        aa: the A/A repeat of one run; never stored in a baseline.
    """

    arch: str
    dataset: str
    depth: int
    width: int
    batch: int
    optimizer: str
    method: str
    reference: str
    device: str
    dtype: str
    threads: str
    execution: str
    torch: str
    ratio: float
    low: float
    high: float
    degrees: int
    runs: int
    spread: float
    within: float
    floor: float
    rounds: int
    contract: str
    fgbench: str
    cuda: str = ""
    cudnn: str = ""
    cores: str = ""
    power_limit: str = ""
    data: str = ""
    source: str = ""
    chosen: str = ""
    trained: str = ALL
    start: str = ""
    memory_budget: str = ""
    validation_size: str = ""
    ids: str = ""
    fault: str = ""
    aa: Estimate = field(default=NOTHING, compare=False)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Which ratio this is: of which method, of which group, over which reference."""
        return tuple(getattr(self, name) for name in IDENTITY)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that it was measured under."""
        return tuple(getattr(self, name) for name in CONDITIONS)

    @property
    def label(self) -> str:
        """Its name in tables and messages."""
        return label_of(self.identity)

    @property
    def where(self) -> str:
        """What its label leaves out: the data, the machine, and how it was used."""
        threads = self.threads and f"{self.threads} thread{'s' * (self.threads != '1')}"
        return ", ".join(filter(None, (self.dataset, self.device, threads, self.dtype, self.execution)))


def label_of(identity: Sequence[Any]) -> str:
    """A ratio's name in tables and messages; what is as usual of the group is left out, and the dataset."""
    own = dict(zip(IDENTITY, identity, strict=True))
    optimizer, reference, start, budget = (
        own[name] for name in ("optimizer", "reference", "start", "memory_budget")
    )
    unusual = (
        f"training {own['trained']}" if own["trained"] != ALL else "",
        f"with {optimizer}" if optimizer != PLAIN.optimizer else "",
        f"over {reference}" if reference != REFERENCE else "",
        f"from {Path(start).name}" if start else "",
        f"within {int(budget) / 2**20:.4g} MiB" if budget else "",
    )
    group = name_of(*(own[name] for name in ("arch", "depth", "width", "batch")))
    return ", ".join([f"{group} {own['method']}", *filter(None, unusual)])


def differing(then: Entry, now: Entry) -> list[tuple[str, str, str]]:
    """Each condition that differs: its name, what it was then, what it is now; without unknown ones."""
    known = CONDITIONS if then.data and now.data else OLDER_CONDITIONS
    found = []
    for name in known:
        a, b = getattr(then, name), getattr(now, name)
        if name == "torch" and "" in (then.data, now.data):
            a, b = (".".join(version.split(".")[:2]) for version in (a, b))
        if a != b:
            found.append((NAMES.get(name, name), a or "none", b or "none"))
    return found


def another_contract(then: Entry, now: Entry) -> str:
    """In words, that entries of equal conditions have different contracts; empty where they have not."""
    if then.contract == now.contract:
        return ""
    if then.data and now.data:
        return "another contract: the held-out set or the weights at the start"
    return "another contract: an older fgbench's does not say of what"


def chosen_otherwise(then: Entry, now: Entry) -> str:
    """In words, that `best` or the search chose something else, which is comparable; empty if it did not."""
    if then.chosen == now.chosen or not (then.data and now.data):
        return ""
    return f"chosen {then.chosen or 'nothing'} then, {now.chosen or 'nothing'} now"


def pooled(entries: Sequence[Entry]) -> Entry:
    """The mean of several runs' entries, which are given in the order of the runs.

    Runs minutes apart differ by more than the processes of one run do. The interval is therefore a t-interval
    over runs, with at least the spread that the processes of each run show.
    """
    alike = [entry for entry in entries if entry.contract == entries[-1].contract]
    sound = [entry for entry in alike if not entry.fault]
    if len(sound) < 2:
        return (sound or alike)[-1]
    logs = [math.log(entry.ratio) for entry in sound]
    mean, runs = fmean(logs), len(logs)
    spread, within = stdev(logs), math.sqrt(fmean(entry.within**2 for entry in sound))
    reach = t_quantile(runs - 1) * max(spread, within) / math.sqrt(runs)
    return replace(
        sound[-1],
        ratio=math.exp(mean),
        low=math.exp(mean - reach),
        high=math.exp(mean + reach),
        degrees=runs - 1,
        runs=runs,
        spread=spread,
        within=within,
        floor=_pooled_floor(sound),
        aa=NOTHING,
        ids=" ".join(entry.ids for entry in sound if entry.ids),
        rounds=sum(entry.rounds for entry in sound),
    )


def _pooled_floor(entries: Sequence[Entry]) -> float:
    """How far the mean of several runs' A/A repeats may be from 1; the more runs, the less."""
    repeats = [entry.aa for entry in entries if entry.aa.has_interval]
    if len(repeats) < len(entries):
        return median(entry.floor for entry in entries)
    reaches = [math.log(aa.high / aa.low) / 2 for aa in repeats]
    mean = fmean(math.log(aa.value) for aa in repeats)
    return math.expm1(abs(mean) + math.sqrt(fmean(reach**2 for reach in reaches) / len(reaches)))
