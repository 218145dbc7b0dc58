"""`fgbench doctor`: show what this machine is, how noisy it is, and what is amiss."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgbench.errors import UsageError

if TYPE_CHECKING:
    from fgbench.experiments.noise import Experiment

PROCESSES = 5  # in each of --noise's comparisons
NOISE_SECONDS = 2.5  # for each process


@dataclass(frozen=True)
class _Asked:
    comparisons: int
    seconds: float
    out: Path | None
    command: str


def doctor(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. (default: as many as `fgbench run` uses)")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Seconds for comparing a step with itself, to find the noise floor; 0 for none."),
    ] = 10.0,
    noise: Annotated[
        bool,
        typer.Option(
            "--noise",
            help="Compare steps whose true ratio is known, to find the noise floor, how often intervals hold "
            "the truth, and the smallest difference that can be seen.",
        ),
    ] = False,
    comparisons: Annotated[
        int,
        typer.Option(help="How many identical pairs --noise compares; half as many differ by a known share."),
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for --noise's noise.csv and noise.json. (default: not stored)"),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(help="The folder of downloaded data. (default: $FGBENCH_DATA, or ~/.cache/fgbench)"),
    ] = None,
) -> None:
    """Show versions, devices, the noise floor of this machine, and what is amiss."""
    from rich.console import Console

    from fgbench.measurement.environment import describe_environment
    from fgbench.plan.config import default_data_dir
    from fgbench.plan.machine import resolve_device, resolve_threads

    if comparisons < 1:
        raise UsageError(f"--comparisons {comparisons}: must be at least 1.")
    console = Console(highlight=False)
    resolved = resolve_device(device)
    environment = describe_environment(resolved, resolve_threads(threads))
    _show_environment(console, environment)
    for line in _notes(Path(data_dir or default_data_dir()).expanduser(), environment):
        console.print(f"[yellow]note[/yellow] {line}")
    console.print(_empty_step())
    if noise:
        command = shlex.join(["fgbench", *sys.argv[1:]])
        asked = _Asked(comparisons, NOISE_SECONDS, out, command)
        _compare_known(console, resolved, environment, asked)
    elif seconds > 0:
        console.print(_noise(resolved, environment["threads"], seconds))


def _show_environment(console: Any, environment: dict[str, Any]) -> None:
    from rich.table import Table

    from fgbench.version import __version__

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("[cyan]fgbench[/cyan]", __version__)
    for name, value in environment.items():
        if name == "libraries":
            value = ", ".join(f"{k} {v or 'absent'}" for k, v in value.items())
        if value is not None:
            table.add_row(f"[cyan]{name}[/cyan]", str(value))
    console.print(table)


def _notes(data_dir: Path, environment: dict[str, Any]) -> list[str]:
    import torch

    lines = []
    if not torch.cuda.is_available():
        lines.append("no CUDA device: jobs run on the CPU.")
    gpu = environment["gpu"]
    if gpu and gpu["power_limit_watts"] is None:
        lines.append("NVML does not tell this GPU's state: its clocks, throttling and energy stay unknown.")
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        lines.append(f"torchvision cannot be imported ({error}): mnist and fashion-mnist cannot be read.")
    for name, folder in (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")):
        if not (data_dir / folder / "raw").is_dir():
            lines.append(f"{name} is not in {data_dir}: the first run with it downloads it.")
    if environment["governor"] not in (None, "performance"):
        lines.append(f"CPU governor is {environment['governor']}: performance gives steadier times.")
    if (environment["load_1min"] or 0) > 1:
        lines.append(f"load is {environment['load_1min']:.1f}: something else is running.")
    return lines


def _compare_known(console: Any, device: str, environment: dict[str, Any], asked: _Asked) -> None:
    """Compare steps of known ratio in fresh processes; show the progress, then what was found."""
    from rich.progress import track

    from fgbench.experiments.noise import PAIRS, Experiment, Shares, compare_known
    from fgbench.measurement.lock import timing_lock

    sets = max(1, round(asked.comparisons / (len(PAIRS) - 1)))
    spent: list[Shares] = []
    made = compare_known(sets, PROCESSES, asked.seconds, device, environment["threads"], spent)
    comparisons = []
    with timing_lock(device, console.print):
        for found in track(made, "comparing steps of known ratio", sets, console=_on_errors()):
            comparisons += found
            if asked.out:
                facts = {"command": asked.command, "environment": environment}
                Experiment(comparisons, spent).store(asked.out, facts)
    _show_findings(console, Experiment(comparisons, spent))
    if asked.out:
        console.print(f"[dim]stored in[/dim] {asked.out}")


def _show_findings(console: Any, experiment: Experiment) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from fgbench.report.figures import seconds

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in (
        "comparison",
        "made",
        "interval holds the truth",
        "by rounds alone",
        "half-width",
        "told apart",
    ):
        table.add_column(name, justify="left" if name == "comparison" else "right")
    for kind, name in (("aa", "a step with itself"), ("known", "a step with one 5 % longer")):
        f = experiment.of_kind(kind)
        table.add_row(
            name,
            str(f.count),
            f"{f.coverage.value:.1%} \\[{f.coverage.low:.1%}, {f.coverage.high:.1%}]",
            f"{f.coverage_within:.1%}",
            f"±{f.half_width:.2%}, 9 of 10 ±{f.widest:.2%}",
            f"{f.found:.1%}",
        )
    console.print(table)
    first, aa = experiment.comparisons[0], experiment.of_kind("aa")
    console.print(
        f"noise floor ±{aa.floor:.2%} (19 of 20 identical steps differ by less); smallest difference that "
        f"80 % of such comparisons find: {aa.smallest:.2%}. Steps of {seconds(first.seconds)}, "
        f"{first.processes} processes, {first.rounds} rounds in all; fgbench's own share of the time "
        f"{experiment.harness:.1%}."
    )


def _on_errors() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _empty_step() -> str:
    """A line that says how much of a timed sample is the cost of timing itself."""
    from statistics import median

    from fgbench.measurement.clock import HostClock
    from fgbench.measurement.interleave import Arm, with_block
    from fgbench.running.arms import BLOCK_SECONDS

    clock = HostClock()
    nothing = Arm("nothing", lambda: None)
    alone = median(clock.time(nothing.step).seconds for _ in range(1000))
    steps = with_block(nothing, clock, BLOCK_SECONDS["cpu"], 1).steps
    block = clock.time(lambda: [nothing.step() for _ in range(steps)]).seconds / steps
    return (
        f"[green]overhead[/green] timing an empty step alone reads {alone * 1e6:.2f} µs; in a block, timing "
        f"adds {block * 1e6:.2f} µs to each step."
    )


def _noise(device: str, threads: int, seconds: float) -> str:
    """Compare a small backprop step with itself; a line that says how far apart it seems."""
    import torch

    from fgbench.api import compare

    torch.set_num_threads(threads)
    model = torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    batch = torch.randn(64, 784), torch.randint(10, (64,))
    moved = (batch[0].to(device), batch[1].to(device))
    found = compare(
        model.to(device),
        torch.nn.functional.cross_entropy,
        moved,
        methods=["backprop"],
        max_measure_seconds=seconds,
    )
    aa = found[found["role"] == "aa"].iloc[0]
    floor = (aa["ratio_high"] - aa["ratio_low"]) / 2 / aa["ratio"]
    processes = "one process" if aa["processes"] == 1 else f"{aa['processes']} processes"
    return (
        f"[green]noise[/green] backprop against itself: {aa['ratio']:.3f} "
        f"\\[{aa['ratio_low']:.3f}, {aa['ratio_high']:.3f}] over {aa['rounds']} rounds in {processes}; "
        f"a difference below ±{floor:.1%} would not show here."
    )
