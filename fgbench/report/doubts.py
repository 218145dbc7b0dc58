"""What a reader should doubt: warnings, each with its figure and with what would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple

import pandas as pd
import scipy

from fgbench.measurement.interleave import WARM_UP_WINDOW, steady
from fgbench.report.figures import interval, missing, number, seconds
from fgbench.store.schema import Role
from fgbench.summary.ratios import estimate
from fgbench.summary.soundness import THROTTLED_SHARE, aa_fault, throttled_share
from fgbench.summary.table import HOST, UNKNOWN

FEW_SEEDS = 3
DRIFT = 0.05  # change of step times over a process that is worth a warning
SLOT_EFFECT, SLOT_CHANCE = 0.01, 0.001  # effect of a place in the round, and its p-value, that are worth one
OUTLIER, OUTLIER_SHARE = 1.5, 0.05  # a block of so many times its arm's median, and a share of such blocks
COARSE = 0.6  # distance of evaluations, as a share of the time to the target, beyond what an interval says
CUT_SHARE = 0.25  # of the processes; the interval over processes shows what fewer warm-ups cut short do
PRODUCT = 1.1  # the ratio while training may be beyond the timed one's interval by this factor
ARM = ["group", "role", "method", "process"]


def doubts(
    summary: pd.DataFrame, ratios: pd.DataFrame, samples: pd.DataFrame, seeds_before: Sequence[int] = ()
) -> list[str]:
    """The warnings, as whole sentences, the most important first.

    Args:
        summary: a row for each method of each group, as of `summarise`.
        ratios: rows of ratios.csv, including the A/A repeats.
        samples: rows of samples.csv.
        seeds_before: how many seeds the run had before more were added, each time.
    """
    timed = samples[~samples["warm_up"].astype(bool) & (samples["role"] != Role.ALONE)]
    # A reader may see only the first few.
    return [
        *_status_doubts(summary),
        *_aa_doubts(ratios),
        *_precision_doubts(summary),
        *_warm_up_doubts(samples[samples["role"] != Role.ALONE]),
        *_launch_doubts(summary),
        *_timing_doubts(timed),
        *_alone_doubts(ratios),
        *_product_doubts(summary),
        *_resolution_doubts(summary),
        *_seed_doubts(summary, seeds_before),
    ]


def _aa_doubts(ratios: pd.DataFrame) -> Iterator[str]:
    for _, row in ratios[ratios["role"] == Role.AA].iterrows():
        own = ratios[(ratios["group"] == row["group"]) & (ratios["role"] == Role.METHOD)]
        aa, others = estimate(row, "ratio"), own[own["method"] != row["reference"]]
        faults = {r["method"]: aa_fault(aa, estimate(r, "ratio")) for _, r in others.iterrows()}
        if doubtful := [method for method, fault in faults.items() if fault]:
            yield (
                f"{row['group']}: {row['reference']} against itself came out at {number(*astuple(aa))} "
                f"{interval(*astuple(aa))}, not 1 closely enough for what is said of {', '.join(doubtful)}: "
                "this machine is too noisy now; close other programs or raise --processes."
            )


def _precision_doubts(summary: pd.DataFrame) -> Iterator[str]:
    """The least precise ratio of each group in which the time ran out before the precision was reached."""
    late = summary[(summary["stopped"] == "time") & (summary["method"] != summary["reference"])]
    half = ((late["ratio_high"] - late["ratio_low"]) / 2 / late["ratio"]).astype(float).dropna()
    for place in half.groupby(late["group"], sort=False).idxmax():
        row = late.loc[place]
        yield (
            f"{row['group']}, {row['method']}: time ran out at ±{half[place]:.1%} of the ratio; "
            "raise --max-measure-seconds for the precision asked for."
        )


def _warm_up_doubts(samples: pd.DataFrame) -> Iterator[str]:
    """Warm-ups that ended because their time was up, before every arm was steady."""
    warm = samples[samples["warm_up"].astype(bool)].sort_values("round")
    for group, rows in warm.groupby("group", sort=False):
        ends = {
            process: steady([list(s) for _, s in own.groupby(["role", "method"])["seconds"]])
            for process, own in rows.groupby("process")
        }
        cut = sum(not end for end in ends.values())
        if cut > CUT_SHARE * len(ends):
            yield (
                f"{group}: in {cut} of {len(ends)} processes the warm-up's time was up before "
                f"{WARM_UP_WINDOW} rounds took as long as the {WARM_UP_WINDOW} before; "
                "raise --max-measure-seconds."
            )


def _timing_doubts(timed: pd.DataFrame) -> Iterator[str]:
    for group, rows in timed.groupby("group", sort=False):
        middle = rows.groupby(ARM)["seconds"].transform("median")
        off = (rows["seconds"] / middle).map(math.log)
        yield from (f"{group}: {text}" for text in _drift(rows, off))
        yield from (f"{group}: {text}" for text in _slots(rows, off))
        yield from (f"{group}: {text}" for text in _outliers(rows, middle))
        yield from (f"{group}: {text}" for text in _throttling(rows))


def _launch_doubts(summary: pd.DataFrame) -> Iterator[str]:
    for _, row in summary[summary["bound_by"] == HOST].iterrows():
        yield (
            f"{row['group']}, {row['method']} is launch-bound: the GPU is at work in {row['busy_share']:.0%} "
            "of a step's time and waits for the host in the rest, so that R measures Python, not the GPU; "
            "try --exec cudagraph or a larger --batch."
        )
    for _, row in summary[summary["bound_by"] == UNKNOWN].iterrows():
        yield (
            f"{row['group']}, {row['method']}: whether it is launch-bound is unknown: a step has more work "
            "than the GPU's launch queue holds, or waits for the GPU, so that the host cannot run ahead; "
            "try --exec cudagraph, which launches it as one."
        )


def _drift(rows: pd.DataFrame, off: pd.Series) -> Iterator[str]:
    place = rows["round"] / rows.groupby("process")["round"].transform("max").clip(lower=1)
    first, last = off[place < 1 / 3], off[place > 2 / 3]
    if len(first) and len(last) and abs(change := float(last.median() - first.median())) > DRIFT:
        yield (
            f"steps got {abs(change):.0%} {'slower' if change > 0 else 'faster'} from the first to the last "
            "third of a process; ratios within a round hardly feel it, R and seconds do: let the machine "
            "cool, or close what came and went."
        )


def _slots(rows: pd.DataFrame, off: pd.Series) -> Iterator[str]:
    for position, own in off.groupby(rows["position"]):
        slower = int((own > 0).sum())
        effect = float(own.median())
        chance = scipy.stats.binomtest(slower, len(own)).pvalue * rows["position"].nunique()
        if abs(effect) > SLOT_EFFECT and chance < SLOT_CHANCE:
            yield (
                f"blocks at place {int(position) + 1} of a round take {abs(effect):.1%} "  # type: ignore[call-overload]
                f"{'longer' if effect > 0 else 'less'} than elsewhere; the order is balanced, so that no "
                "ratio is moved: raise --max-measure-seconds where the intervals are too wide."
            )


def _outliers(rows: pd.DataFrame, middle: pd.Series) -> Iterator[str]:
    times = rows["seconds"] / middle
    share = float((times > OUTLIER).mean())
    if share > OUTLIER_SHARE:
        yield (
            f"{share:.0%} of blocks took over {OUTLIER:g} times their median, the longest {times.max():.1f} "
            "times; all are in the file, and medians bear them: close other programs."
        )


def _throttling(rows: pd.DataFrame) -> Iterator[str]:
    told = rows["throttle"].dropna()
    throttled = told[told != ""]
    if (share := throttled_share(rows)) > THROTTLED_SHARE:
        clocks = rows["sm_clock_mhz"].dropna()
        span = f", at {clocks.min():.0f} to {clocks.max():.0f} MHz" if len(clocks) else ""
        yield (
            f"the GPU was throttled in {share:.0%} of blocks "
            f"({', '.join(sorted(set(throttled)))}){span}: that is how it trains for long; cool it, or set a "
            "lower clock, to compare it with other machines."
        )


def _alone_doubts(ratios: pd.DataFrame) -> Iterator[str]:
    for _, row in ratios[ratios["role"] == Role.METHOD].iterrows():
        if missing(row["r_alone_low"]) or missing(row["r_low"]):
            continue
        alone = row["r_alone"], row["r_alone_low"], row["r_alone_high"]
        beside = row["r"], row["r_low"], row["r_high"]
        if row["r_alone_low"] > row["r_high"] or row["r_alone_high"] < row["r_low"]:
            yield (
                f"{row['group']}, {row['method']}: its R is {number(*alone)} {interval(*alone)} when timed "
                f"alone, and {number(*beside)} {interval(*beside)} when interleaved: caches, clocks or power "
                "differ when other work comes between; the first holds for a machine that does nothing else."
            )


def _product_doubts(summary: pd.DataFrame) -> Iterator[str]:
    """Where the times of steps while training do not bear out the timed ratio.

    T ratio divided by steps ratio is the ratio of the times that steps took while training.
    """
    for _, row in summary[summary["method"] != summary["reference"]].iterrows():
        if any(missing(row[name]) for name in ("t_ratio", "n_ratio", "ratio_low")) or not row["reached"]:
            continue
        trained = row["t_ratio"] / row["n_ratio"]
        if not row["ratio_low"] / PRODUCT < trained < row["ratio_high"] * PRODUCT:
            cells = row["ratio"], row["ratio_low"], row["ratio_high"]
            yield (
                f"{row['group']}, {row['method']}: while training, its steps took {number(trained)} times as "
                f"long as {row['reference']}'s, but {number(*cells)} {interval(*cells)} times when they were "
                "timed, so that T ratio is not ratio × steps ratio; if that matters, close other programs or "
                "raise --max-train-seconds."
            )


def _resolution_doubts(summary: pd.DataFrame) -> Iterator[str]:
    for _, row in summary[summary["t_resolution"] > COARSE * summary["t"]].iterrows():
        yield (
            f"{row['group']}, {row['method']}: reached its target within an evaluation or two "
            f"({seconds(row['t'])}, {seconds(row['t_resolution'])} apart): it may be anywhere in between, "
            "and ratios over it have wide intervals for that reason; aim at a lower --target-loss."
        )


def _seed_doubts(summary: pd.DataFrame, before: Sequence[int]) -> Iterator[str]:
    if before:
        yield (
            f"seeds were added to the {' and then the '.join(map(str, before))} that this run had: an "
            "interval that is looked at again until it decides is wrong more often than once in 20; where "
            "that matters, settle the number beforehand."
        )
    runs = summary["runs"].dropna()
    if len(runs) and runs.max() < FEW_SEEDS:
        yield (
            f"{int(runs.max())} seed{'s are' if runs.max() > 1 else ' is'} few for a time to target; "
            f"--seeds {FEW_SEEDS} or more narrows its interval, and --resume RUN --seeds {FEW_SEEDS} "
            "adds them."
        )


def _status_doubts(summary: pd.DataFrame) -> Iterator[str]:
    """Jobs that failed. Those that diverged are a result, which the table and the sentence give."""
    said = summary["status"].str.fullmatch(r"ok|\d+ diverged")
    for _, row in summary[~said].iterrows():
        yield f"{row['group']}, {row['method']}: {row['status']}; read why in jobs.csv, column detail."
