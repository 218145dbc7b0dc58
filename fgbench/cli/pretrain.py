"""`fgbench pretrain`: make weights that every method of a run can begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.errors import UsageError
from fgbench.plan.config import Config, default_data_dir
from fgbench.plan.defaults import PRETRAINING_BATCH, PRETRAINING_OPTIMIZER, PRETRAINING_RATE

STEPS = 400  # for the default model less than two minutes on two cores


def pretrain(
    out: Annotated[Path, typer.Argument(help="The file to write, for `fgbench run --start`.")],
    arch: Annotated[str, typer.Option(help="The architecture, as in `fgbench run`.")] = "transformer",
    depth: Annotated[
        int | None, typer.Option(min=1, help="How many layers. (default: the architecture's)")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="How wide a layer is. (default: the architecture's)")
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="The dataset; a run can then go on with another, such as pydoc:part=second.")
    ] = "pydoc:part=first",
    batch: Annotated[int, typer.Option(min=1, help="How many samples a batch has.")] = PRETRAINING_BATCH,
    steps: Annotated[int, typer.Option(min=1, help="How many steps of backprop are taken.")] = STEPS,
    lr: Annotated[
        float, typer.Option(help="The initial learning rate; it decays to a twentieth of it.")
    ] = PRETRAINING_RATE,
    optimizer: Annotated[str, typer.Option(help="The optimiser of torch.optim.")] = PRETRAINING_OPTIMIZER,
    seed: Annotated[int, typer.Option(help="The seed of initial weights and batches.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = Config.device,
    threads: Annotated[
        int | None, typer.Option(min=1, help="How many CPU threads. (default: as many as `fgbench run` uses)")
    ] = None,
    validation_size: Annotated[
        int, typer.Option(min=1, help="How many held-out samples the loss is evaluated on.")
    ] = 100,
) -> None:
    """Train a model with backprop and write its weights, so that fine-tuning needs no download.

    The same options give the same file on the same machine.
    """
    if not 0 < lr < float("inf"):
        raise UsageError(f"--lr {lr:g}: must be a positive number.")
    from fgbench.running.pretraining import begin

    config = Config(
        archs=(arch,),
        depths=(depth,) if depth else None,
        width=width,
        batch=batch,
        dataset=dataset,
        validation_size=validation_size,
        data_dir=default_data_dir(),
        device=device,
        threads=threads,
        optimizer=optimizer,
    )
    model = begin(config, seed, steps)
    _check_file(out)
    for point in model.points(lr):
        typer.echo(
            f"step {point.iteration} of {steps}: validation loss {point.validation_loss:.3f} nats, "
            f"accuracy {point.validation_accuracy:.1%}, {point.train_seconds:.0f} s",
            err=True,
        )
    typer.echo(f"{out}: weights {model.save(out)}; begin from them with fgbench run --start {out}")


def _check_file(out: Path) -> None:
    """Refuse a file that cannot be written before minutes are spent on training."""
    from fgbench.store.csv_table import try_to_write

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try_to_write(out)
    except OSError as error:
        raise UsageError(
            f"{out}: cannot be written ({error.strerror}); name a file that can be written."
        ) from error
