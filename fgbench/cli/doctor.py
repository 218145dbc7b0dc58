"""`fgbench doctor`: what this machine is, how noisy it is, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def doctor(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads. (default: torch's own)")] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Seconds for the A/A comparison that finds the noise floor; 0 leaves it out."),
    ] = 10.0,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder of downloaded data. (default: as in run)")
    ] = None,
) -> None:
    """Show versions, devices, the noise floor of this machine, and what is missing."""
    from rich.console import Console

    from fgbench.cli.run import default_data_dir
    from fgbench.measurement.environment import describe_environment
    from fgbench.plan import resolve_device, resolve_threads

    console = Console(highlight=False)
    resolved = resolve_device(device)
    environment = describe_environment(resolved, resolve_threads(threads))
    _show_environment(console, environment)
    for line in _missing(Path(data_dir or default_data_dir()).expanduser(), environment):
        console.print(f"[yellow]missing[/yellow] {line}")
    if seconds > 0:
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


def _missing(data_dir: Path, environment: dict[str, Any]) -> list[str]:
    import torch

    lines = []
    if not torch.cuda.is_available():
        lines.append("no CUDA device: jobs run on the CPU.")
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        lines.append(f"torchvision does not import ({error}): mnist and fashion-mnist cannot be read.")
    for name, folder in (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")):
        if not (data_dir / folder / "raw").is_dir():
            lines.append(f"{name} is not in {data_dir}: the first run with it downloads it.")
    if environment["governor"] not in (None, "performance"):
        lines.append(f"CPU governor is {environment['governor']}: performance gives steadier times.")
    if (environment["load_1min"] or 0) > 1:
        lines.append(f"load is {environment['load_1min']:.1f}: something else is running.")
    return lines


def _noise(device: str, threads: int, seconds: float) -> str:
    """An A/A comparison of a small backprop step, in this process."""
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
    return (
        f"[green]noise[/green] backprop against itself: {aa['ratio']:.3f} "
        f"\\[{aa['ratio_low']:.3f}, {aa['ratio_high']:.3f}] over {aa['rounds']} rounds in one process; "
        f"a difference below ±{floor:.1%} would not show here."
    )
