"""How well each method's step is aligned with the gradient while it trains (Fournier et al. 2023).

A step's estimate is the change of the weights under plain SGD, divided by minus the learning rate. The
gradient is reverse mode's at the same weights, batch and dropout masks. Everything is computed in
float64, as the estimate is a small difference of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fgbench import architectures, methods
from fgbench.charts.drawing.parts import log_axis
from fgbench.charts.drawing.style import (
    Look,
    add_legend,
    height_over_legend,
    looks_of,
    new_figure,
    print_style,
    save,
)
from fgbench.measurement.statistics import Estimate, mean_interval
from fgbench.methods import Batch, Step, trainable
from fgbench.methods.steps.oracle import cosine
from fgbench.plan import Config, Group
from fgbench.plan.config import default_data_dir
from fgbench.plan.machine import resolve_device, resolve_threads
from fgbench.pushforward.context import buffers_kept, draws_again
from fgbench.reproduction.suite import Note
from fgbench.running.matched import Matched, build_matched
from fgbench.store.csv_table import replace_text
from fgbench.training.loop import evaluate

SAME = 0.999  # an estimate with at least this cosine counts as the gradient itself
TABLE = "alignment.csv"
COLUMNS = ("method", "seed", "step", "block", "cosine", "loss")
ALL = "all"  # stands in the column `block` for all blocks together
SHAPE, CLASSES = (1, 28, 28), 10  # those of MNIST, for the expected seconds
FLOPS_PER_SECOND = 8e9  # of one core, for the expected seconds: few channels, in float64, as measured
BACKWARD = 2  # a backward pass costs as much as so many forward passes


def seconds(settings: Mapping[str, Any]) -> float:
    """About how long `measure` takes on one CPU core, in seconds, on images of MNIST's size."""
    model = architectures.build(settings["arch"], settings["depth"], settings["width"], SHAPE, CLASSES)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, *SHAPE))
    sample = counter.get_total_flops() / 2 / FLOPS_PER_SECOND
    recorded = settings["steps"] / settings["every"] + 1
    compared = recorded * (settings["batch"] * (1 + BACKWARD) + _validation_size(settings))
    passes = sum(
        settings["steps"] * settings["batch"] * (1 + methods.find(spec).queries) + compared
        for spec in settings["methods"]
    )
    return float(settings["seeds"] * passes * sample)


def measure(settings: Mapping[str, Any], folder: Path, note: Note) -> None:
    """Train every method from the same weights on the same batches; write `alignment.csv` after each run.

    There is a row for each block and one for all of them together, at every `every`-th step and after the
    last: the cosine between the gradient and the step taken from there, and the validation loss before
    it. A block is a child of the model that has parameters. A run ends once its loss is no longer finite.
    Runs that the table has already, from before an interruption, are not made again.

    Args:
        settings: `arch`, `depth`, `width`, `dataset`, `batch`, `methods` (learning rate by spec), `steps`,
            `every` and `seeds`; also, where the default is not wanted, `validation_size`, `device`,
            `threads` and `data_dir`.
        folder: an existing folder.
        note: is told which run comes next and what share of the work is done.

    Raises:
        UsageError: an architecture, a dataset or a method is unknown, or the data is missing.
    """
    rates, seeds = settings["methods"], settings["seeds"]
    table = _stored(folder)
    done = set(zip(table["method"], table["seed"], strict=True))
    for seed in range(seeds):
        matched = build_matched(_group(settings), _data_dir(settings), seed)
        for i, (spec, rate) in enumerate(rates.items()):
            note(f"{spec}, seed {seed}", (seed + i / len(rates)) / seeds)
            if (spec, str(seed)) not in done:
                found = pd.DataFrame(_run(matched, spec, rate, settings["steps"], settings["every"]))
                own = found.assign(method=spec, seed=seed)
                table = pd.concat([table, own.astype(object)])[list(COLUMNS)]
                replace_text(folder / TABLE, table.to_csv(index=False))


def _stored(folder: Path) -> pd.DataFrame:
    """The rows of an interrupted measurement, as text, so that writing them again changes nothing."""
    if not (folder / TABLE).exists():
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.read_csv(folder / TABLE, dtype=str, keep_default_na=False)


def figure_names(settings: Mapping[str, Any]) -> set[str]:
    """The keys that `figures` gives.

    Raises:
        UsageError: a method is unknown.
    """
    return {
        f"{method}/{figure}"
        for method in methods.canonical_specs(tuple(settings["methods"]))
        for figure in ("alignment", "inner", "loss")
    }


def figures(folder: Path) -> dict[str, Estimate]:
    """`METHOD/alignment`, `METHOD/inner` and `METHOD/loss`, means over seeds with 95 % t-intervals.

    `alignment` is the mean cosine over the later half of the steps, of the seeds that got that far. `loss`
    is the validation loss at the end, infinite where a seed diverged. `inner` is the mean cosine over those
    blocks whose estimate is not the gradient itself. In methods that go block by block the last block's
    estimate is the gradient, and would hide the others. How well an auxiliary loss's own gradient is
    aligned is the `inner` of `local-losses`.
    """
    found = {key: mean_interval(list(values.values())) for key, values in by_seed(folder).items()}
    frame = _read(folder)
    whole = frame[frame["block"] == ALL]
    last = whole.groupby(["method", "seed"]).tail(1).set_index("method")["loss"]
    for method in whole["method"].unique():
        losses = list(last[last.index == method])
        finite = all(math.isfinite(loss) for loss in losses)
        found[f"{method}/loss"] = mean_interval(losses) if finite else Estimate(math.inf)
    return found


def by_seed(folder: Path) -> dict[str, dict[int, float]]:
    """`METHOD/alignment` and `METHOD/inner` of each seed, whose runs share weights and batches."""
    frame = _read(folder)
    found: dict[str, dict[int, float]] = {}
    late = _late(frame[frame["block"] == ALL])
    for method, own in frame.groupby("method", sort=False):
        aligned = late[late["method"] == method].groupby("seed")["cosine"].mean()
        found[f"{method}/alignment"] = dict(aligned.dropna())
        if inner := _inner(own):
            found[f"{method}/inner"] = inner
    return found


def draw(folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
    """Draw alignment by step, and by block over the later half of the steps, with a line for each method.

    Args:
        folder: holds `alignment.csv`.
        out: an existing folder, which gets the chart.
        claims: published values by figure key; an alignment is drawn as a dotted line.
    """
    path = out / "alignment.png"
    with print_style():
        save(_chart(_read(folder), claims), path)
    return [path]


def _group(settings: Mapping[str, Any]) -> Group:
    return Group(
        settings["arch"],
        settings["depth"],
        settings["width"],
        settings["batch"],
        settings["dataset"],
        _validation_size(settings),
        "float64",
        resolve_device(settings.get("device", Config.device)),
        resolve_threads(settings.get("threads")),
    )


def _validation_size(settings: Mapping[str, Any]) -> int:
    return int(settings.get("validation_size", Config.validation_size))


def _data_dir(settings: Mapping[str, Any]) -> str:
    return str(settings.get("data_dir") or default_data_dir())


def _run(matched: Matched, spec: str, rate: float, steps: int, every: int) -> Iterator[dict[str, Any]]:
    """Train one method from one seed; gives step, block, cosine and loss of each row."""
    model = matched.copy_of_model()
    step = methods.prepare(methods.find(spec), model, matched.loss, matched.seed, matched.conditions_of(spec))
    for number in range(steps + 1):
        (batch,) = matched.order.batches(matched.data, number, 1)
        if number % every and number != steps:
            step(batch, rate)
            continue
        loss, _ = evaluate(model, matched.loss, matched.data)
        for block, value in _cosines(matched, model, step, batch, rate).items():
            yield {"step": number, "block": block, "cosine": value, "loss": loss}
        if not math.isfinite(loss):
            return


def _cosines(matched: Matched, model: nn.Module, step: Step, batch: Batch, rate: float) -> dict[str, float]:
    """Take a step; gives the cosine between its estimate and the gradient, by block and over all."""
    gradient = _gradient(matched, model, batch)
    before = [p.detach().clone() for p in step.parameters]
    step(batch, rate)
    estimate = [(b - p.detach()) / rate for b, p in zip(before, step.parameters, strict=True)]
    owners = [name.partition(".")[0] for name in trainable(model)]
    found = {ALL: cosine(estimate, gradient)}
    for block in dict.fromkeys(owners):
        own = [i for i, owner in enumerate(owners) if owner == block]
        found[block] = cosine([estimate[i] for i in own], [gradient[i] for i in own])
    return found


def _gradient(matched: Matched, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
    """The gradient by reverse mode; random numbers and running statistics stay as they were."""
    with draws_again(batch[0].device), buffers_kept(model):
        value = matched.loss(model(batch[0]), batch[1])
        return torch.autograd.grad(value, list(trainable(model).values()), materialize_grads=True)


def _read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / TABLE, dtype={"method": str, "block": str})


def _inner(frame: pd.DataFrame) -> dict[int, float]:
    """By seed, the mean cosine over late steps, without blocks whose estimate is always the gradient."""
    blocks = frame[frame["block"] != ALL]
    lowest = blocks.groupby("block")["cosine"].transform("min")
    late = _late(blocks[~(lowest > SAME)])
    return dict(late.groupby("seed")["cosine"].mean().dropna())


def _late(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["step"] >= frame["step"].max() / 2]


def _chart(frame: pd.DataFrame, claims: Mapping[str, float]) -> Figure:
    specs, seeds = list(frame["method"].unique()), frame["seed"].nunique()
    claimed = {spec: claims[f"{spec}/alignment"] for spec in specs if f"{spec}/alignment" in claims}
    lines = [
        "Cosine of each step's estimate with reverse mode's gradient. "
        + (f"Means over {seeds} seeds." if seeds > 1 else "One seed."),
        "Right: each block from input to output, over the later half of the steps"
        + (", with 95 % t-intervals." if seeds > 1 else "."),
    ]
    figure = new_figure("Alignment with the gradient", lines, height_over_legend([*specs, *claimed]))
    by_step, by_block = figure.subplots(1, 2, sharey=True)
    looks = looks_of(specs)
    whole = frame[frame["block"] == ALL]
    blocks = [block for block in frame["block"].unique() if block != ALL]
    drawn = _lines(by_step, whole, "step", sorted(whole["step"].unique()), looks)
    drawn += _lines(by_block, _late(frame), "block", blocks, looks)
    for spec, value in claimed.items():
        by_step.axhline(value, color=looks[spec].colour, linestyle=":", label=f"{spec}, claimed")
    if min([*drawn, *claimed.values()], default=0) > 0:
        log_axis(by_step, "y", [*drawn, *claimed.values()])
    by_step.set(xlabel="Step", ylabel="Cosine with ∇f")
    by_block.set_xticks(range(len(blocks)), blocks)
    by_block.set_xlabel("Block, by its number in the model")
    add_legend(figure, by_step, specs)
    return figure


def _lines(
    ax: Axes, frame: pd.DataFrame, by: str, places: Sequence[Any], looks: Mapping[str, Look]
) -> list[float]:
    """Draw a line for each method over steps, or over blocks with intervals; gives the means drawn."""
    means = frame.groupby(["method", by, "seed"])["cosine"].mean().dropna()
    drawn = []
    for spec in means.index.unique("method"):
        found = {at: mean_interval(list(own)) for at, own in means[spec].groupby(level=by)}
        there = [(place, found[at]) for place, at in enumerate(places) if at in found]
        x = [places[place] if by == "step" else place for place, _ in there]
        y = [e.value for _, e in there]
        reach = None
        if by == "block" and all(e.has_interval for _, e in there):
            reach = [[e.value - e.low for _, e in there], [e.high - e.value for _, e in there]]
        look = looks[spec]
        style: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
        ax.errorbar(x, y, reach, markersize=3.5, elinewidth=0.9, capsize=1.5, label=spec, **style)
        drawn += y
    ax.grid(axis="y")
    return drawn
