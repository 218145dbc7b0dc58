"""`fgbench check`: stored runs against a baseline; its exit code is the answer."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgbench.cli.values import share
from fgbench.errors import UsageError

if TYPE_CHECKING:
    from fgbench.regression.baseline import Cell
    from fgbench.regression.verdict import Verdict
    from fgbench.store.run_folder import RunFolder

INCONCLUSIVE = ("pass", "fail")
LONGER = 3  # times as long, and in as many more processes, where the first measurement was not clear
PRECISION = 0.01  # wanted half-width of a ratio, so that a change of some percent shows


def check(
    results: Annotated[
        Path | None, typer.Argument(help="The run to judge, or a folder that holds several.")
    ] = None,
    baseline: Annotated[Path, typer.Option(help="What `fgbench baseline` wrote.")] = Path("baseline.csv"),
    tolerance: Annotated[
        str, typer.Option(help="By how much a ratio may grow: 5% or 0.05. The A/A floor counts where larger.")
    ] = "5%",
    allow_mismatch: Annotated[
        bool,
        typer.Option("--allow-mismatch", help="Compare results of another device or torch all the same."),
    ] = False,
    inconclusive: Annotated[
        str, typer.Option(help="Whether what cannot be told may pass (exit code 0) or fails (3).")
    ] = "fail",
    format: Annotated[str, typer.Option(help="table, markdown, junit, github or json.")] = "table",
    run: Annotated[
        bool,
        typer.Option(
            "--run", help="Measure what the baseline lists, and longer where the answer is not yet clear."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder that gets the runs of --run.")] = Path("results"),
    max_measure_seconds: Annotated[
        float, typer.Option(help="Of --run: seconds of timing for one matched group, at first.")
    ] = 45.0,
    device: Annotated[str, typer.Option(help="Of --run: auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Say whether a runtime ratio got worse: PASS, IMPROVED, REGRESSED, INCONCLUSIVE or INVALID for each.

    Exit codes: 0 pass or improved, 1 regressed, 2 wrong use, 3 inconclusive, 4 invalid or nothing measured.
    """
    from fgbench.regression.baseline import cells_of, read_baseline
    from fgbench.regression.formats import FORMATS
    from fgbench.regression.verdict import check as judge
    from fgbench.regression.verdict import exit_code
    from fgbench.store.run_folder import find_runs

    if run == (results is not None):
        raise UsageError("check needs either a folder of results or --run, which measures them.")
    if format not in FORMATS:
        raise UsageError(f"--format {format}: must be one of {', '.join(FORMATS)}.")
    if inconclusive not in INCONCLUSIVE:
        raise UsageError(f"--inconclusive {inconclusive}: must be one of {', '.join(INCONCLUSIVE)}.")
    margin = share("--tolerance", tolerance)
    held = read_baseline(baseline)
    if results is None:
        verdicts = _run_and_judge(held, margin, allow_mismatch, _Asked(out, max_measure_seconds, device))
    else:
        verdicts = judge(held, cells_of(find_runs(results)), margin, allow_mismatch=allow_mismatch)
    print(FORMATS[format](verdicts).rstrip())
    raise typer.Exit(exit_code(verdicts, inconclusive_passes=inconclusive == "pass"))


@dataclass(frozen=True)
class _Asked:
    out: Path
    seconds: float
    device: str


def _run_and_judge(held: list[Cell], margin: float, allow_mismatch: bool, asked: _Asked) -> list[Verdict]:
    """Measure what the baseline lists; then once more, and longer, what could not be told."""
    from fgbench.regression.baseline import cells_of
    from fgbench.regression.verdict import Answer
    from fgbench.regression.verdict import check as judge

    runs = _measured(held, asked, 1)
    verdicts = judge(held, cells_of(runs), margin, allow_mismatch=allow_mismatch)
    unclear = [v.cell for v in verdicts if v.answer is Answer.INCONCLUSIVE]
    if unclear:
        print(
            f"fgbench: {len(unclear)} not clear yet: measured again, {LONGER} times as long", file=sys.stderr
        )
        runs += _measured(unclear, asked, LONGER)
        verdicts = judge(held, cells_of(runs), margin, allow_mismatch=allow_mismatch)
    return verdicts


def _measured(cells: list[Cell], asked: _Asked, times: int) -> list[RunFolder]:
    from fgbench.cli.run import DEFAULTS, default_data_dir
    from fgbench.cli.start import measure, new_run
    from fgbench.plan import Config, make_plan
    from fgbench.regression.rerun import configs_of

    like = Config(
        archs=(),
        depths=None,
        width=None,
        batch=1,
        dataset="",
        validation_size=int(DEFAULTS["validation_size"]),
        data_dir=default_data_dir(),
        methods=(),
        seeds=1,
        target_loss="auto",
        learning_rate=None,
        max_train_seconds=DEFAULTS["max_train_seconds"],
        precision=PRECISION,
        max_measure_seconds=times * asked.seconds,
        processes=times * int(DEFAULTS["processes"]),
        device=asked.device,
        dtype="",
        threads=None,
    )
    folders = []
    for plan in [make_plan(config) for config in configs_of(cells, like)]:
        folder, contracts = new_run(plan, asked.out)
        measure(plan, folder, contracts)
        folders.append(folder)
    return folders
