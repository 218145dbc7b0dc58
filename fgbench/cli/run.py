"""`fgbench run`: measure methods against each other, the main job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fgbench.cli import cluster_options as where
from fgbench.cli import finetune_options as finetune
from fgbench.cli import output_options as output
from fgbench.cli import run_options as ask
from fgbench.cli import stored
from fgbench.cli.cluster import cluster_of, cluster_resumed, planned
from fgbench.cli.presets import QUICK
from fgbench.cli.unused_options import check_used, not_default
from fgbench.cli.values import share, size, span
from fgbench.errors import UsageError
from fgbench.plan.config import Config, Dtype, default_data_dir
from fgbench.specs.options import OR

if TYPE_CHECKING:
    from fgbench.plan import Plan
    from fgbench.store.run_folder import RunFolder

NOTHING_MEASURED = 1  # exit code of a run in which every job failed, or a task of a cluster is missing


def run(
    ctx: typer.Context,
    arch: ask.Arch = list(Config.archs),  # noqa: B006
    depth: ask.Depth = None,
    method: ask.Method = list(Config.methods),  # noqa: B006
    dataset: ask.Dataset = None,
    batch: ask.Batch = None,
    quick: ask.Quick = False,
    width: ask.Width = None,
    dtype: ask.Precise = Dtype(Config.dtype),  # noqa: B008
    validation_size: ask.ValidationSize = None,
    data_dir: ask.DataDir = None,
    time_only: ask.TimeOnly = False,
    device: ask.Device = Config.device,
    threads: ask.Threads = Config.threads,
    execution: ask.Execution = None,
    processes: ask.Processes = None,
    max_measure_seconds: ask.MaxMeasureSeconds = None,
    precision: ask.Precision = Config.precision,
    isolated: ask.Isolated = False,
    memory_budget: ask.MemoryBudget = "",
    slowed: ask.Slowed = "0",
    start: finetune.Start = Config.start,
    train: finetune.Trained = Config.trained,
    train_only: ask.TrainOnly = False,
    seeds: ask.Seeds = None,
    target_loss: ask.TargetLoss = Config.target_loss,
    target_accuracy: ask.TargetAccuracy = Config.target_accuracy,
    lr: ask.LearningRate = ask.SEARCH,
    lr_decay: ask.LrDecay = "0",
    optimizer: ask.Optimizer = [Config.optimizer],  # noqa: B006
    max_train_seconds: ask.MaxTrainSeconds = None,
    max_iterations: ask.MaxIterations = None,
    max_queries: ask.MaxQueries = None,
    evaluate_every: ask.EvaluateEvery = None,
    patience: ask.Patience = None,
    on: where.On = None,
    slurm: where.SlurmOption = [],  # noqa: B006
    slurm_file: where.SlurmFile = None,
    out: output.Out = Path("results"),
    json_: output.AsJson = False,
    verbose: output.Verbose = False,
    dry_run: output.DryRun = False,
    repeat: output.Repeat = 1,
    shard: output.Shard = Config.shard,
    like: output.Like = None,
    resume: output.Resume = None,
) -> None:
    """Measure methods against each other on matched jobs: runtime ratio, memory, time to a target loss.

    Every combination of --arch, --depth and --batch is a matched group, in which all methods have the same
    initial weights, the same batches and the same device. A folder of CSVs is written; `fgbench plot` draws
    them.
    """
    if dry_run and json_:
        raise UsageError("--dry-run prints a plan and --json a result: leave one of them out.")
    given = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}  # type: ignore[union-attr]
    if resume is not None:
        if given - {"resume", "seeds", "slurm", "json_", "verbose", "dry_run"}:
            raise UsageError(
                "--resume continues with the options that the run began with: give no others than --seeds, "
                "to add some, --slurm, --json, --verbose or --dry-run."
            )
        _resume(resume, seeds, slurm, dry_run, as_json=json_, detail=verbose)
        return
    if repeat > 1 and json_:
        raise UsageError("--json prints one object for one run: leave --repeat out.")
    if time_only and train_only:
        raise UsageError("--time-only and --train-only together leave nothing to do: give one of them.")

    def chosen(name: str, given: float | None) -> Any:
        if given is not None:
            return given
        return QUICK[name] if quick else getattr(Config, name)

    config = Config(
        archs=tuple(arch),
        depths=tuple(depth) if depth else None,
        width=width,
        batch=_one_or_several(batch),
        dataset=dataset or Config.dataset,
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
        dtype=dtype.value,
        threads=threads,
        execution=execution.value if execution else Config.execution,
        optimizer=OR.join(optimizer),
        time=not train_only,
        train=not time_only,
        isolated=isolated,
        shard=shard,
        lr_decay=_number_or_text(lr_decay),
        target_accuracy=target_accuracy,
        max_iterations=max_iterations,
        max_queries=max_queries,
        evaluate_every=evaluate_every,
        slowed=share("--slowed", slowed),
        start=start,
        trained=train,
        memory_budget=size("--memory-budget", memory_budget),
        patience=patience,
    )
    if like is not None:
        config = stored.like(like, config, given)
    check_used(config, not_default(ctx))
    cluster = cluster_of(on, slurm, slurm_file)
    if dry_run:
        _show_plan(config, repeat)
        return
    _measure(config, out, repeat, like, cluster, as_json=json_, detail=verbose)


def _measure(
    config: Config, out: Path, repeat: int, like: Path | None, cluster: dict[str, Any] | None, **shown: bool
) -> None:
    """As many runs as asked for, each in a folder of its own."""
    from fgbench.plan import make_plan
    from fgbench.running.start import new_run

    for number in range(repeat):
        if cluster is None:
            folder, contracts = new_run(plan := make_plan(config), out)
        else:
            plan, environment = planned(config, cluster, out)
            folder, contracts = new_run(plan, out, environment, cluster=cluster)
        if like is not None and not number:
            stored.note_what_differs(like, contracts)
        _run(plan, folder, contracts, **shown)


def _one_or_several(batch: list[int] | None) -> int | tuple[int, ...] | None:
    if not batch:
        return None
    return batch[0] if len(batch) == 1 else tuple(batch)


def _learning_rate(asked: str) -> float | tuple[float, ...] | None:
    try:
        rates = () if asked == ask.SEARCH else tuple(map(float, asked.split(",")))
    except ValueError:
        raise UsageError(f"--lr {asked}: must be a number, several with commas, or {ask.SEARCH}.") from None
    return rates if len(rates) > 1 else next(iter(rates), None)


def _number_or_text(asked: str) -> float | str:
    try:
        return float(asked)
    except ValueError:
        return asked


def _resume(path: Path, seeds: int | None, slurm: Sequence[str], dry_run: bool, **shown: bool) -> None:
    folder, config = stored.begun(path)
    if seeds == config.seeds and folder.facts()["status"] != "done":
        seeds = None  # they were asked for before the run was interrupted
    if seeds is not None:
        config = stored.with_more_seeds(folder, config, seeds)
    if dry_run and "cluster" in folder.facts():  # whose plan is made by a task of the cluster
        cluster_resumed(folder.facts()["cluster"], slurm)
        _show_plan(config)
        return
    plan, contracts, cluster = stored.resumed(folder, config, slurm)
    if dry_run:
        _show_plan(config)
        return
    with folder.held():
        if cluster is not None:
            folder.note(cluster=cluster)
        if seeds is not None:
            folder.ask_for_seeds(seeds)
    _run(plan, folder, contracts, **shown)


def _show_plan(config: Config, repeat: int = 1) -> None:
    """The matched groups, and about how long they take in so many runs."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from fgbench.plan import make_plan
    from fgbench.running.duration import expected_seconds

    plan = make_plan(config)
    console, table = Console(highlight=False), Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("matched group", style="bold")
    table.add_column("what")
    for group in plan.groups:
        table.add_row(group.name, group.sentence)
    console.print(table)
    seconds = repeat * expected_seconds(plan)
    methods, groups = plan.config.methods, len(plan.groups)
    phases = [
        name for name, asked in (("timing", plan.config.time), ("training", plan.config.train)) if asked
    ]
    console.print(
        f"{groups} group{'s' * (groups > 1)} × {len(methods)} method{'s' * (len(methods) > 1)} "
        f"({', '.join(methods)}){f' × {repeat} runs' * (repeat > 1)}: "
        f"{' and '.join(phases)}, about {span(seconds)}. Nothing was measured or written."
    )


def _run(plan: Plan, folder: RunFolder, contracts: dict[str, str], **shown: bool) -> None:
    from fgbench.cli.start import measure
    from fgbench.report import show

    try:
        measure(plan, folder, contracts)
    except KeyboardInterrupt:  # an interrupted run shows what it has
        show(folder, **shown)
        print(f"fgbench: go on with: fgbench run --resume {folder.path}", file=sys.stderr)
        raise
    if not show(folder, **shown) or folder.facts()["status"] != "done":
        raise typer.Exit(NOTHING_MEASURED)
