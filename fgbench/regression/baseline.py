"""A baseline: a CSV with one ratio in a row, small enough to review, and all that makes ratios comparable."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pandas as pd

from fgbench.errors import ResultsError, UsageError
from fgbench.measurement.environment import conditions
from fgbench.measurement.statistics import NOTHING, Estimate, t_quantile
from fgbench.methods import BEST
from fgbench.plan.group import ALL
from fgbench.specs.options import OR
from fgbench.store.csv_table import replace_text
from fgbench.store.run_folder import NAMES, RunFolder, environment_of
from fgbench.store.schema import Role
from fgbench.summary.ratios import estimate
from fgbench.summary.soundness import AA_SHARE, THROTTLED_SHARE, aa_off, throttled_share
from fgbench.summary.table import summarise

# IDENTITY says which ratio a row holds; CONDITIONS have to be equal for two rows to be comparable.
IDENTITY = (
    *("arch", "dataset", "depth", "width", "batch", "optimizer", "method", "reference"),
    *("trained", "start", "memory_budget"),
)
CONDITIONS = (
    *("device", "dtype", "threads", "execution", "torch", "cuda", "cudnn", "cores", "power_limit"),
    *("data", "source", "fgbench"),
)
WORTH = 0.05  # baselines should be able to show such a change; the A/A repeat has to be good enough for it


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
        only = f", training {self.trained}" if self.trained != ALL else ""
        return f"{self.arch}-d{self.depth}-w{self.width}-b{self.batch} {self.method}{only}"


FIGURES = ("ratio", "low", "high", "spread", "within", "floor")  # written with five digits
COLUMNS = tuple(f.name for f in fields(Entry) if f.name not in ("fault", "aa"))
OLDER_COLUMNS = COLUMNS[: COLUMNS.index("cuda")]  # older baselines also have only torch's minor version
READ = (COLUMNS, COLUMNS[: COLUMNS.index("trained")], OLDER_COLUMNS)


def differing(then: Entry, now: Entry) -> list[tuple[str, str, str]]:
    """Each condition that differs: its name, what it was then, what it is now; without unknown ones."""
    known = CONDITIONS if then.data and now.data else [n for n in CONDITIONS if n in OLDER_COLUMNS]
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


def entries_of(runs: Iterable[RunFolder]) -> list[Entry]:
    """The ratio of every method but the reference, sorted; the mean, where several runs measured it.

    Where the runs of an entry have different contracts, only those with the latest contract count.

    Raises:
        ResultsError: a run is damaged.
    """
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for run in runs:
        for entry in entries_of_run(run):
            found.setdefault((entry.identity, entry.conditions), []).append(entry)
    return sorted(pooled(own) for own in found.values())


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


def write_baseline(path: Path, entries: Sequence[Entry]) -> None:
    """Write entries as a CSV, sorted, so that a diff shows what changed.

    Raises:
        UsageError: the file cannot be written.
    """
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in sorted(entries):
        row = {**vars(entry)}
        writer.writerow(row | {k: f"{row[k]:.5g}" for k in FIGURES})
    try:
        replace_text(path, lines.getvalue())
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}).") from error


def read_baseline(path: Path) -> list[Entry]:
    """The entries of a baseline.

    Raises:
        ResultsError: the file cannot be read or is not a baseline; the message names the line.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read as a baseline ({error}).") from error
    reader = csv.DictReader(io.StringIO(text))
    columns = tuple(reader.fieldnames or ())
    if columns not in READ:
        raise ResultsError(f"{path}: not a baseline of this version; `fgbench baseline` writes one.")
    known = {"int": int, "float": float, "str": str}
    kinds = {f.name: known[str(f.type)] for f in fields(Entry) if f.name in COLUMNS}
    entries = []
    for row in reader:
        try:
            entry = Entry(**{name: kinds[name](row[name]) for name in columns})
            sound = (
                0 < entry.low <= entry.ratio <= entry.high < math.inf and min(entry.degrees, entry.runs) >= 1
            )
            sound = sound and min(entry.spread, entry.within, entry.floor) >= 0
        except (TypeError, ValueError):
            sound = False
        if not sound or None in row or None in row.values():  # a cell too many, or too few
            raise ResultsError(f"{path}:{reader.line_num}: not a row of a baseline.")
        entries.append(entry)
    return entries


def entries_of_run(run: RunFolder, role: str = Role.METHOD) -> list[Entry]:
    """The entries of one run.

    Args:
        run: the run.
        role: Role.METHOD, or Role.SLOWED for the repeats that were made slower on purpose.

    Raises:
        ResultsError: a table is damaged.
    """
    facts, summary = run.facts(), summarise(run)
    groups = {group["name"]: group for group in facts["groups"]}
    choices = _choices(summary)
    ratios, samples = run.read("ratios"), run.read("samples")
    steady = samples[~samples["warm_up"].astype(bool)]
    entries = []
    for _, row in summary[summary["method"] != summary["reference"]].iterrows():
        own = ratios[ratios["group"] == row["group"]]
        aa = own[own["role"] == Role.AA]
        figures = own[(own["method"] == row["method"]) & (own["role"] == role)]
        if role != Role.METHOD and figures.empty:
            continue
        figure = figures.iloc[0] if len(figures) else row
        known = not pd.isna(figure["ratio_low"]) and figure["processes"] > 1
        ratio, low, high = (
            float(figure[n]) if known else math.nan for n in ("ratio", "ratio_low", "ratio_high")
        )
        degrees = _degrees(int(figure["processes"]), facts["config"]["processes"]) if known else 0
        whole: dict[str, Any] = {name: int(row[name]) for name in ("depth", "width", "batch")}
        group = groups[row["group"]]
        where: dict[str, Any] = {**conditions(environment_of(facts, group))}
        named = ("arch", "dataset", "optimizer", "method", "reference", "dtype", "execution")
        entries.append(
            Entry(
                **{name: row[name] for name in named},
                **whole,
                device=row["device_name"],
                threads=str(row["threads"]) if row["device"] == "cpu" else "",
                **where,
                data=group.get("data", ""),
                source=group.get("source", ""),
                chosen=choices.get((row["group"], row["method"]), ""),
                trained=row["trained"],
                start=group.get("start", ""),
                memory_budget=str(group.get("memory_budget") or ""),
                ratio=ratio,
                low=low,
                high=high,
                degrees=degrees,
                runs=1,
                spread=0.0,
                within=math.log(high / low) / 2 / t_quantile(degrees) if known else math.nan,
                floor=_floor(aa),
                rounds=int(figure["rounds"]) if known else 0,
                contract=group.get("contract", ""),
                fgbench=str(group.get("fgbench_version", facts["fgbench_version"])),
                aa=estimate(aa.iloc[0], "ratio") if len(aa) else NOTHING,
                fault=_fault(row, aa, steady[steady["group"] == row["group"]], known=known),
            )
        )
    return entries


def _degrees(processes: int, pilot: int) -> int:
    """The degrees of freedom of a ratio's interval: the pilot's, as the spread is of its processes alone."""
    return min(processes, pilot if pilot > 1 else processes) - 1


def _choices(summary: pd.DataFrame) -> dict[tuple[str, str], str]:
    """By group and method, what `best` or the search chose for the method and for its reference."""
    taken = {(row["group"], row["method"]): _taken(row) for _, row in summary.iterrows()}
    over = dict(zip(summary["group"], summary["reference"], strict=True))
    return {
        (group, method): f"{own} / {taken[group, over[group]]}"
        for (group, method), own in taken.items()
        if own
    }


def _taken(row: pd.Series) -> str:
    """Those of a method's mode, optimiser and update that were chosen from several."""
    choices = {"mode": row["execution"] == BEST, "own_optimizer": OR in row["optimizer"], "update": True}
    return " ".join(str(row[n]) for n, free in choices.items() if free and not pd.isna(row[n]))


def _floor(aa: pd.DataFrame) -> float:
    """How far the A/A ratio's interval extends from 1."""
    ends = [float(x) for x in aa[["ratio_low", "ratio_high"]].to_numpy().ravel() if not pd.isna(x)]
    return max((abs(end - 1) for end in ends), default=0.0)


def _fault(row: pd.Series, aa: pd.DataFrame, steady: pd.DataFrame, *, known: bool) -> str:
    if row["status"] != "ok" and pd.isna(row["ratio"]):
        return f"not measured: {row['status']}"
    if pd.isna(row["ratio"]):
        return "not measured"
    if not known:
        return "one process gives no interval to judge by: leave --quick out"
    off = max((aa_off(estimate(repeat, "ratio")) for _, repeat in aa.iterrows()), default=0.0)
    if off > AA_SHARE * math.log1p(WORTH):
        return f"A/A failed: {row['reference']} differed from itself by {math.expm1(off):.1%} at least"
    # A GPU under load usually runs at its power limit; the report warns of that, but it is no fault.
    share = throttled_share(steady.replace({"throttle": {"power": ""}}))
    return f"throttled in {share:.0%} of blocks" if share > THROTTLED_SHARE else ""
