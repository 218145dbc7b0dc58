"""The options of `fgbench run` that say what training begins from, and which parameters are trained."""

from __future__ import annotations

from typing import Annotated

import typer

from fgbench.cli.run_options import PROBLEM

Start = Annotated[
    str,
    typer.Option(
        help="A file of weights that every method begins from, as `fgbench pretrain` writes it. "
        "(default: random weights)",
        rich_help_panel=PROBLEM,
    ),
]
Trained = Annotated[
    str,
    typer.Option(
        "--train",
        help="Which parameters are trained: all, head, bias, last:2 (the last two layers or blocks), or "
        "lora:rank=8,targets=qkv+out.",
        rich_help_panel=PROBLEM,
    ),
]
