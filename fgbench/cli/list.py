"""`fgbench list`: list what is registered, with its options."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from fgbench.errors import UsageError
from fgbench.plan.config import KNOWN_AS, Config
from fgbench.specs import registry

METHODS = Config.methods


def list_registered(
    kind: Annotated[
        str | None,
        typer.Argument(help="What to list: architectures, datasets, functions or methods. (default: all)"),
    ] = None,
) -> None:
    """List architectures, datasets, functions and methods, each with its options and their defaults."""
    from rich.console import Console
    from rich.table import Table

    if kind is not None and kind not in registry.KINDS:
        raise UsageError(f"nothing called '{kind}' can be listed: choose from {', '.join(registry.KINDS)}.")
    console = Console()
    for each in [kind] if kind else registry.KINDS:
        table = Table(title=each, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("name", style="cyan", no_wrap=True)
        table.add_column("what it is")
        for name in registry.names(each):
            table.add_row(name, _described(registry.find(each, name)))
        console.print(table)
        if each == "methods":
            known = (f"{method} ({KNOWN_AS[method]})" if method in KNOWN_AS else method for method in METHODS)
            console.print(f"fgbench run compares {', '.join(known)}.", highlight=False)
        console.print()


def _described(registered: Any) -> str:
    from rich.markup import escape

    from fgbench.specs.options import options_of

    lines = [registered.summary]
    if source := getattr(registered, "source", None):
        lines.append(f"[dim]{escape(source)}[/dim]")
    for name in ("costs", "worth"):
        if text := getattr(registered, name, ""):
            lines.append(f"  {name}: {escape(text)}")
    if inspect.isclass(registered):
        lines += [f"  [green]{o.name}[/green]={o.default}  {escape(o.help)}" for o in options_of(registered)]
    else:
        lines.append(f"  [dim]{_size(registered)}[/dim]")
    return "\n".join(lines)


def _size(registered: Any) -> str:
    if hasattr(registered, "default_n"):
        n = registered.default_n
        return f"n is {n}" if registered.fixed_n else f"n from {registered.least_n}, default {n}"
    depth, width = registered.default_depth, registered.default_width
    on_gpu = f", on a GPU {registered.gpu_width}" if registered.gpu_width else ""
    return f"depth {registered.depths_in_words}, default {depth}; width default {width}{on_gpu}"
