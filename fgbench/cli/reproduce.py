"""`fgbench reproduce`: run a paper's experiments, and compare its claims with what was measured."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgbench.cli.values import span
from fgbench.errors import UsageError
from fgbench.reproduction.scale import FULL, PAPER, SCALES, Scale

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fgbench.reproduction.claims import JudgedClaim
    from fgbench.reproduction.suite import Experiment, Note, Suite

DONE = "done"  # this file is in the folder of a measured experiment, and lists its runs if not all were


def _papers() -> list[str]:
    from fgbench.reproduction.loading import names

    return list(names())


def reproduce(
    paper: Annotated[
        str | None,
        typer.Argument(help="The name of the paper, as --list shows it.", autocompletion=_papers),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="An experiment of the paper to run, as fc, or a run of one, as fc/w256. Repeatable. "
            "(default: all)"
        ),
    ] = None,
    scale: Annotated[
        Scale | None,
        typer.Option(
            help="smoke only proves that each experiment runs, laptop gives results on a CPU, paper follows "
            "the paper's protocol where a CPU can, in hours, and full is the paper's own size. (default: "
            "laptop; with --resume the folder's own)"
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List every experiment, and about how long it takes.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="The folder of a reproduction to continue: finished experiments are kept."),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(help="The folder of downloaded data. (default: $FGBENCH_DATA, or ~/.cache/fgbench)"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder in which this reproduction gets a folder.")] = Path(
        "results"
    ),
) -> None:
    """Run a paper's experiments, and say for each of its claims whether it was reproduced."""
    from fgbench.plan.config import default_data_dir
    from fgbench.reproduction.folder import go_on, make
    from fgbench.reproduction.loading import load

    os.environ["FGBENCH_DATA"] = data_dir or default_data_dir()
    if list_:
        if only and paper is None:
            raise UsageError("--only names experiments of a paper: name the paper too.")
        _list([paper] if paper else _papers(), only or ())
        return
    if paper is None:
        raise UsageError(f"reproduce needs a paper: {', '.join(_papers())}; --list shows their experiments.")
    suite = load(paper)
    chosen = suite.only(only or ())
    size = (scale or Scale.LAPTOP).value
    folder = resume or out / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{paper}-{size}"
    try:
        if resume is not None:
            size = go_on(folder, suite, scale)
        for experiment in chosen:
            experiment.settings(size)  # raises where a run that was asked for is not there
        if resume is None:
            make(folder, paper, size)
        _reproduce(suite, chosen, size, folder)
    except KeyboardInterrupt:
        own = "".join(f" --only {experiment}" for experiment in only or ())
        print(f"fgbench: go on with: fgbench reproduce {paper}{own} --resume {folder}", file=sys.stderr)
        raise
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}).") from error


def _reproduce(suite: Suite, chosen: Sequence[Experiment], scale: str, folder: Path) -> None:
    from rich.console import Console

    from fgbench.measurement.environment import describe_environment, usable_cores
    from fgbench.page import write_page
    from fgbench.plan.machine import resolve_device, resolve_threads
    from fgbench.reproduction.report import draw_claims, show, store

    found: dict[str, list[JudgedClaim]] = {}
    environment = describe_environment(resolve_device("auto"), resolve_threads(None))
    facts = {"scale": scale, "environment": environment}
    charts = []
    console = Console(highlight=False)
    # Claims of experiments that were measured there before stay in the table.
    missing = {e.name: e for e in chosen if not _finished(e, folder / e.name)}
    there = [e for e in suite.experiments if e.name in missing or (folder / e.name / DONE).exists()]
    if scale in (PAPER, FULL):
        _say_hours(missing.values(), scale, console)
    for experiment in there:
        if experiment.name in missing:
            _measure(missing[experiment.name], scale, folder / experiment.name)
        found[experiment.name] = _judged(experiment, scale, folder / experiment.name)
        claims = {c.figure: c.value for c in experiment.claims if c.value is not None and c.of_the_paper}
        out = folder / "charts" / experiment.name
        out.mkdir(parents=True, exist_ok=True)
        charts += experiment.by.draw(folder / experiment.name, out, claims)
        charts += draw_claims(experiment, found[experiment.name], suite.source, out)
        store(folder, suite, found, facts)
    show(suite, found, scale, console)
    write_page(folder, folder / "report.html", processes=usable_cores())
    console.print(f"[dim]{len(charts)} charts, claims.md and report.html in[/dim] {folder}", soft_wrap=True)


def _finished(experiment: Experiment, folder: Path) -> bool:
    """Whether all of it, or all of its runs that were asked for, were measured before."""
    if not (folder / DONE).exists():
        return False
    runs = (folder / DONE).read_text(encoding="utf-8").split()
    return not runs or (bool(experiment.runs) and set(experiment.runs) <= set(runs))


def _measure(experiment: Experiment, scale: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with _progress(experiment.name) as note:
        experiment.by.measure(experiment.settings(scale), folder, note)
    done = folder / DONE
    before = done.read_text(encoding="utf-8").split() if done.exists() else []
    names = sorted({*before, *experiment.runs}) if experiment.runs else []
    done.write_text("\n".join(names), encoding="utf-8")


def _judged(experiment: Experiment, scale: str, folder: Path) -> list[JudgedClaim]:
    from fgbench.reproduction.claims import judge, lacking
    from fgbench.reproduction.scale import larger

    figures, by_seed = experiment.by.figures(folder), experiment.by_seed(folder)
    found = []
    for claim in experiment.claims:
        figure = lacking(claim, figures, scale)
        takes = experiment.takes(figure, larger(scale, claim.needs), folder) if figure else ""
        found.append(judge(claim, figures, scale, takes, by_seed))
    return found


def _say_hours(experiments: Iterable[Experiment], scale: str, console: Console) -> None:
    """How long they take here at most, before they begin."""
    for experiment in experiments:
        takes = span(experiment.seconds_here(scale))
        console.print(f"{experiment.name} takes about {takes} here at most.", soft_wrap=True)


@contextmanager
def _progress(name: str) -> Iterator[Note]:
    """A progress bar on standard error if that is a terminal; a line for each new percentage otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if not sys.stderr.isatty():
        said: set[str] = set()

        def note(text: str, share: float) -> None:
            line = f"{name} {share:.0%}"
            if line not in said:
                said.add(line)
                print(f"{line}: {text}", file=sys.stderr)

        yield note
        return
    columns = (TextColumn("{task.fields[text]}"), BarColumn(), TimeRemainingColumn())
    bar: Progress
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=1.0, text=name)
        yield lambda text, share: bar.update(task, completed=share, text=f"{name}: {text}")


def _list(papers: Sequence[str], only: Sequence[str]) -> None:
    """Print the experiments of the papers, all or those asked for, with the time each takes at each scale."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from fgbench.reproduction.loading import load

    console = Console(highlight=False)
    for paper in papers:
        suite = load(paper)
        console.print(f"[bold]{paper}[/bold] · {suite.title} · {suite.source}")
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("experiment", style="bold")
        table.add_column("what")
        for heading in ("claims", *SCALES):
            table.add_column(heading, justify="right")
        for experiment in suite.only(only):
            spans = _spans(experiment)
            table.add_row(experiment.name, experiment.title, str(len(experiment.claims)), *spans)
        console.print(table)
    console.print(
        "[dim]Times are estimates; the scale full is meant for a GPU. At paper and full, what an[/dim]"
    )
    console.print("[dim]experiment takes here is said before it begins.[/dim]")


def _spans(experiment: Experiment) -> list[str]:
    """About how long it takes at each scale; – where it has not all the runs that were asked for."""
    spans: dict[str, str] = {}
    for scale in SCALES:
        try:
            spans[scale] = span(experiment.by.seconds(experiment.settings(scale)))
        except UsageError as error:
            missing = error
    if not spans:
        raise missing
    return [spans.get(scale, "–") for scale in SCALES]
