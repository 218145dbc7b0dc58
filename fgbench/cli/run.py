"""`fgbench run`: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgbench.cli import stored
from fgbench.cli.presets import DEFAULTS, QUICK, default_data_dir
from fgbench.cli.values import share
from fgbench.errors import UsageError
from fgbench.specs import registry
from fgbench.specs.options import OR

if TYPE_CHECKING:
    from fgbench.plan import Plan
    from fgbench.store.run_folder import RunFolder

NOTHING_MEASURED = 1  # exit code of a run in which every job failed


SEARCH = "search"


def _default(name: str) -> str:
    return f"(default: {DEFAULTS[name]:g}; --quick: {QUICK[name]:g})"


def run(
    ctx: typer.Context,
    arch: Annotated[
        list[str],
        typer.Option(
            help="Architecture; your own, path/to/file.py:build or package.module:build; Hugging Face's, "
            "hf:GPT2LMHeadModel:n_layer=4. Repeatable.",
            autocompletion=lambda: registry.names("architectures"),
        ),
    ] = ["mlp"],  # noqa: B006
    depth: Annotated[
        list[int] | None,
        typer.Option(
            help="Layers as the architecture counts them. Repeatable. (default: the architecture's)"
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Units or channels of a layer. (default: the architecture's)")
    ] = None,
    batch: Annotated[int, typer.Option(help="Samples a step.")] = 64,
    dataset: Annotated[
        str,
        typer.Option(
            help="Dataset, with options as in synthetic:shape=3x32x32.",
            autocompletion=lambda: registry.names("datasets"),
        ),
    ] = "digits",
    method: Annotated[
        list[str],
        typer.Option(
            help="Method, with options as in forward:structure=rademacher. Repeatable.",
            autocompletion=lambda: registry.names("methods"),
        ),
    ] = ["backprop", "forward"],  # noqa: B006
    seeds: Annotated[
        int | None, typer.Option(help=f"Training runs of each method, a seed each. {_default('seeds')}")
    ] = None,
    target_loss: Annotated[
        str,
        typer.Option(
            help="Validation loss to reach (nats): a number, several with commas, auto (the lowest that "
            "every run reached), or backprop-best."
        ),
    ] = "auto",
    target_accuracy: Annotated[
        str,
        typer.Option(help="Validation accuracy to reach, as in 0.9, or several with commas. (default: none)"),
    ] = "",
    lr: Annotated[
        str,
        typer.Option(
            help="Learning rate of every method, or search: for each its own, on a seed of its own."
        ),
    ] = SEARCH,
    lr_decay: Annotated[
        float, typer.Option(help="Shrinks the learning rate by exp(-lr_decay · i) at step i.")
    ] = 0.0,
    max_train_seconds: Annotated[
        float | None,
        typer.Option(
            help=f"Training seconds of one run, evaluation excluded. {_default('max_train_seconds')}"
        ),
    ] = None,
    max_iterations: Annotated[
        int | None, typer.Option(help="Steps of one training run, at most. (default: no limit)")
    ] = None,
    max_queries: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of the model in one training run, at most: backprop's step counts 3, a forward "
            "step 1 + k, spsa's and dfa's 2, fdfa's 3. (default: no limit)"
        ),
    ] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between evaluations, at most: they are closer at the start. (default: found from the "
            "methods' pace)"
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option(help="Wanted half-width of a ratio's 95 % interval, as a share.")
    ] = 0.02,
    max_measure_seconds: Annotated[
        float | None,
        typer.Option(
            help="Seconds of timing for one matched group, process start-up excluded. "
            + _default("max_measure_seconds")
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help=f"Fresh processes to time in, at least. {_default('processes')}"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: one process, one seed, a few seconds of each.")
    ] = False,
    time_only: Annotated[bool, typer.Option("--time-only", help="Time and memory, no training.")] = False,
    train_only: Annotated[bool, typer.Option("--train-only", help="Training, no timing.")] = False,
    isolated: Annotated[
        bool,
        typer.Option("--isolated", help="Time every method alone too, and say where that R is another."),
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto (the GPU where there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, float64, bfloat16, or tf32 on a GPU: float32 rounded in products.")
    ] = "float32",
    execution: Annotated[
        str,
        typer.Option(
            "--exec",
            "--execution",
            help="eager; compile: torch.compile; cudagraph: a step captured whole, on a GPU; best: each "
            "method, and the base, in the mode that is fastest for it.",
        ),
    ] = "eager",
    optimizer: Annotated[
        list[str],
        typer.Option(
            help="Of torch.optim, for every method: sgd, adam, sgd:momentum=0.9,nesterov=true. Repeatable: "
            "each method's search then takes the best of them."
        ),
    ] = ["sgd"],  # noqa: B006
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of a job, no more than usable cores. (default: torch's own)"),
    ] = None,
    validation_size: Annotated[
        int | None,
        typer.Option(
            help=f"Held-out samples that a loss is evaluated on, at most. {_default('validation_size')}"
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(help="Folder of downloaded data. (default: $FGBENCH_DATA, or ~/.cache/fgbench)"),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            help="i/n: every n-th matched group alone; `fgbench merge` joins what n runs bring. "
            "(default: all groups)"
        ),
    ] = "",
    like: Annotated[
        Path | None,
        typer.Option(
            help="A stored run whose options are the defaults: alone, it repeats that run. (default: none)"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="A run that was cut off: go on with it where it stopped. No other options. (default: none)"
        ),
    ] = None,
    slowed: Annotated[
        str,
        typer.Option(
            help="Time each method once more, made slower by this share, as in 10%: proof that it would be "
            "seen. (default: not)"
        ),
    ] = "0",
    repeat: Annotated[
        int,
        typer.Option(help="Do it so many times, a folder each: how much runs differ is then known."),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be measured and how long it would take.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder that gets a folder for this run.")] = Path("results"),
    json_: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Measure methods against each other on matched jobs: runtime ratio, memory, time to a target loss.

    Every combination of --arch and --depth is one matched group: same initial weights, same batches,
    same device. Writes a folder of CSVs; `fgbench plot` draws them.
    """
    from fgbench.plan import Config, make_plan

    given = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}  # type: ignore[union-attr]
    if resume is not None:
        if given - {"resume", "json_", "dry_run"}:
            raise UsageError("--resume goes on with the options that the run began with: give no others.")
        _resume(resume, json_, dry_run)
        return
    preset = QUICK if quick else DEFAULTS

    def chosen(name: str, given: float | None) -> Any:
        return preset[name] if given is None else given

    if repeat < 1:
        raise UsageError(f"--repeat {repeat}: must be at least 1.")
    if repeat > 1 and json_:
        raise UsageError("--json is one object: give it without --repeat.")
    if time_only and train_only:
        raise UsageError("--time-only and --train-only leave nothing to do together: give one of them.")
    config = Config(
        archs=tuple(arch),
        depths=tuple(depth) if depth else None,
        width=width,
        batch=batch,
        dataset=dataset,
        validation_size=chosen("validation_size", validation_size),
        data_dir=data_dir or default_data_dir(),
        methods=tuple(method),
        seeds=chosen("seeds", seeds),
        target_loss=target_loss,
        learning_rate=_learning_rate(lr),
        max_train_seconds=chosen("max_train_seconds", max_train_seconds),
        precision=precision,
        max_measure_seconds=chosen("max_measure_seconds", max_measure_seconds),
        processes=chosen("processes", processes),
        device=device,
        dtype=dtype,
        threads=threads,
        execution=execution,
        optimizer=OR.join(optimizer),
        time=not train_only,
        train=not time_only,
        isolated=isolated,
        shard=shard,
        lr_decay=lr_decay,
        target_accuracy=target_accuracy,
        max_iterations=max_iterations,
        max_queries=max_queries,
        evaluate_every=evaluate_every,
        slowed=share("--slowed", slowed),
    )
    if like is not None:
        config = stored.like(like, config, given)
    plan = make_plan(config)
    if dry_run:
        _show_plan(plan)
        return
    from fgbench.running.start import new_run

    for number in range(repeat):
        folder, contracts = new_run(plan, out)
        if like is not None and not number:
            stored.note_what_differs(like, contracts)
        _run(plan, folder, contracts, json_)


def _learning_rate(asked: str) -> float | None:
    try:
        return None if asked == SEARCH else float(asked)
    except ValueError:
        raise UsageError(f"--lr {asked}: must be a number or {SEARCH}.") from None


def _resume(path: Path, as_json: bool, dry_run: bool) -> None:
    plan, folder, contracts = stored.resumed(path)
    if dry_run:
        _show_plan(plan)
        return
    _run(plan, folder, contracts, as_json)


def _show_plan(plan: Plan) -> None:
    """The matched groups, and about how long they take."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from fgbench.running.estimate import estimated_seconds

    console, table = Console(highlight=False), Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("matched group", style="bold")
    table.add_column("what")
    for group in plan.groups:
        table.add_row(group.name, group.sentence)
    console.print(table)
    minutes = estimated_seconds(plan) / 60
    methods, groups = plan.config.methods, len(plan.groups)
    phases = [
        name for name, asked in (("timing", plan.config.time), ("training", plan.config.train)) if asked
    ]
    console.print(
        f"{groups} group{'s' * (groups > 1)} × {len(methods)} methods ({', '.join(methods)}): "
        f"{' and '.join(phases)}, about {minutes:.0f} min at most. Nothing was measured or written."
    )


def _run(plan: Plan, folder: RunFolder, contracts: dict[str, str], as_json: bool) -> None:
    from fgbench.cli.start import measure
    from fgbench.report import show

    try:
        measure(plan, folder, contracts)
    except KeyboardInterrupt:  # an interrupted run shows what it has
        show(folder, as_json=as_json)
        print(f"fgbench: go on with: fgbench run --resume {folder.path}", file=sys.stderr)
        raise
    if not show(folder, as_json=as_json):
        raise typer.Exit(NOTHING_MEASURED)
