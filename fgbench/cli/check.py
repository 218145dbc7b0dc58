"""`fgbench check`: check runs against a baseline; the exit code is the answer."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgbench.cli.choices import CheckFormat, Inconclusive
from fgbench.cli.unused_options import check_used_by_check, not_default
from fgbench.cli.values import share
from fgbench.errors import UsageError
from fgbench.plan.config import Config

if TYPE_CHECKING:
    from fgbench.regression.checking import CheckedRatio
    from fgbench.regression.entry import Entry
    from fgbench.store.run_folder import RunFolder

ANEW, SELF_TEST = "Measuring anew", "Proving that it can fail"  # panels of --help
PROCESSES = 5  # in which each measurement is made
PRECISION = 0.01  # the wanted half-width of a ratio's interval, so that a change of some percent shows


def check(
    ctx: typer.Context,
    results: Annotated[
        Path | None, typer.Argument(help="The run to judge, or a folder that holds several.")
    ] = None,
    baseline: Annotated[Path, typer.Option(help="The file that `fgbench baseline` wrote.")] = Path(
        "baseline.csv"
    ),
    tolerance: Annotated[
        str,
        typer.Option(
            help="By how much a ratio may grow, as in 5% or 0.05. Where equal methods differ by more (A/A), "
            "the check cannot pass."
        ),
    ] = "5%",
    inconclusive: Annotated[
        Inconclusive, typer.Option(help="Whether INCONCLUSIVE passes (exit code 0) or fails (exit code 3).")
    ] = Inconclusive.FAIL,
    allow_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-mismatch", help="Compare results even if device, torch or other conditions differ."
        ),
    ] = False,
    format: Annotated[CheckFormat, typer.Option(help="The format of the verdicts.")] = CheckFormat.TABLE,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for the runs of --run (default: results) and for the findings of --self-test "
            "(default: not stored)."
        ),
    ] = None,
    run: Annotated[
        bool,
        typer.Option(
            "--run",
            help="Measure what the baseline lists, and measure again where the answer is not clear.",
            rich_help_panel=ANEW,
        ),
    ] = False,
    max_measure_seconds: Annotated[
        float,
        typer.Option(
            help="Time one matched group for at most so many seconds in each measurement.",
            rich_help_panel=ANEW,
        ),
    ] = Config.max_measure_seconds,
    device: Annotated[
        str, typer.Option(help="Measure on auto, cpu, cuda or cuda:N.", rich_help_panel=ANEW)
    ] = Config.device,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Prove that the check can fail: judge a known slowdown, in copies of the baseline and runs "
            "(those of --run, or stored runs that were made with --slowed).",
            rich_help_panel=SELF_TEST,
        ),
    ] = False,
    slowdown: Annotated[
        str, typer.Option(help="By how much steps are slowed for --self-test.", rich_help_panel=SELF_TEST)
    ] = "10%",
) -> None:
    """Say of each ratio whether it got worse: PASS, IMPROVED, REGRESSED, INCONCLUSIVE or INVALID.

    Exit codes: 0 passed or improved, 1 regressed, 2 bad input, 3 inconclusive, 4 invalid or nothing measured,
    70 a defect of fgbench itself.
    """
    from fgbench.regression.baseline import read_baseline
    from fgbench.regression.checking import exit_code
    from fgbench.regression.formats import FORMATS

    if (run and results is not None) or not (run or self_test or results is not None):
        raise UsageError("check needs either a folder of results or --run, which measures them.")
    check_used_by_check(not_default(ctx))
    margin, slower = share("--tolerance", tolerance), share("--slowdown", slowdown)
    if self_test and slower <= margin:
        raise UsageError(f"--slowdown {slowdown}: must be more than the tolerance of {margin:.0%}.")
    held = read_baseline(baseline)
    if not held:
        raise UsageError(f"{baseline} holds no ratio to check; `fgbench baseline` writes them.")
    asked = _Asked(results, run, out, max_measure_seconds, device)
    if self_test:
        raise typer.Exit(_test_itself(held, margin, slower, asked))
    verdicts = _judge(held, margin, allow_mismatch, asked)
    print(FORMATS[format.value](verdicts).rstrip())
    raise typer.Exit(exit_code(verdicts, inconclusive_passes=inconclusive is Inconclusive.PASS))


@dataclass(frozen=True)
class _Asked:
    results: Path | None
    run: bool
    out: Path | None
    seconds: float
    device: str


def _judge(held: list[Entry], margin: float, allow_mismatch: bool, asked: _Asked) -> list[CheckedRatio]:
    """Judge stored runs, or measure what the baseline lists, again and again while answers are not clear."""
    from fgbench.regression.checking import check as judge
    from fgbench.regression.checking import settled
    from fgbench.regression.entries import apart_from, entries_of
    from fgbench.store.run_folder import find_runs

    if asked.results is not None:
        measured = entries_of(apart_from(held, find_runs(asked.results)))
        return judge(held, measured, margin, allow_mismatch=allow_mismatch)
    runs: list[RunFolder] = []
    left, looks = held, 0
    while left:
        runs += _measured(left, asked)
        looks += 1
        verdicts = judge(held, entries_of(runs), margin, allow_mismatch=allow_mismatch)
        left = [v.entry for v in verdicts if v.entry in left and not settled(v, looks)]
        if left:
            print(f"fgbench: {len(left)} of {len(held)} not clear yet: measuring again", file=sys.stderr)
    return verdicts


def _test_itself(held: list[Entry], margin: float, slowdown: float, asked: _Asked) -> int:
    """Check what is known to be slower, and what is known not to be; 0 if the check tells them apart."""
    from fgbench.measurement.environment import describe_environment
    from fgbench.plan.machine import resolve_device, resolve_threads
    from fgbench.regression.entries import independent
    from fgbench.regression.formats import self_test_table
    from fgbench.regression.self_test import findings, on_data, on_runs, store
    from fgbench.store.run_folder import find_runs

    probes = on_data(held, slowdown, margin)
    if asked.run:
        from fgbench.regression.checking import LOOKS

        looks = [_measured(held, asked, slowdown) for _ in range(LOOKS)]
        probes += on_runs(held, looks, margin, checks=1)
    elif asked.results is not None:
        probes += on_runs(held, [[run] for run in independent(find_runs(asked.results))], margin)
    print(self_test_table(probes).rstrip())
    if asked.out is not None:
        device = resolve_device(asked.device)
        facts = {"tolerance": margin, "environment": describe_environment(device, resolve_threads(None))}
        store(asked.out, probes, facts)
    return 0 if all(finding.works for finding in findings(probes)) else 1


def _measured(entries: list[Entry], asked: _Asked, slowed: float = 0.0) -> list[RunFolder]:
    from fgbench.cli.start import measure
    from fgbench.plan import make_plan
    from fgbench.regression.rerun import configs_of
    from fgbench.running.start import new_run

    like = Config(
        precision=PRECISION,
        max_measure_seconds=asked.seconds,
        processes=PROCESSES,
        device=asked.device,
        slowed=slowed,
    )
    folders = []
    for plan in [make_plan(config) for config in configs_of(entries, like)]:
        folder, contracts = new_run(plan, asked.out or Path("results"))
        measure(plan, folder, contracts)
        folders.append(folder)
    return folders
