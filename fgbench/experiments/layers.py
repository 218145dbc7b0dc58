"""Compare the variance and the cost of layer-sampled tangents, by structure, tangents and sampling.

    python -m fgbench.experiments.layers --out results/layers

Each point is a method on a model: the ratio of its R to backprop's, as `fgbench.compare` times it, and
E‖g‖² / ‖∇f‖² at the initial weights. `layers.csv` has a row for each point and `layers.json` describes the
machine. `layers-<case>.svg` and `.png` show the points and their frontier: the methods that no other method
beats in both cost and noise.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from fgbench import api, architectures, methods
from fgbench.charts.drawing.style import COLOURS, GREY, MARKERS, new_figure, print_style, save
from fgbench.measurement.environment import describe_environment
from fgbench.methods import Batch, trainable
from fgbench.methods.steps.layers import Draw, units_of
from fgbench.store.experiment import command, store_experiment
from fgbench.summary.variants import frontier

BACKPROP = "backprop"
CLASSES, IMAGE, COLOURED = 10, (1, 28, 28), (3, 64, 64)
LEARNING_IN = 100  # steps after which the adaptive probabilities are read
DRAWS = 200  # steps that a mean is taken over


@dataclass(frozen=True)
class Kind:
    """A way to draw tangents; `sampling` is `all` if every layer is perturbed."""

    structure: str
    tangents: int
    sampling: str

    @property
    def spec(self) -> str:
        """The spec of the method that draws tangents this way."""
        count = f"tangents={self.tangents}," if self.tangents > 1 else ""
        one = "" if self.sampling == "all" else ",layers=one"
        how = f",sampling={self.sampling}" if self.sampling in ("uniform", "adaptive") else ""
        return f"forward:{count}structure={self.structure}{one}{how}"


STRUCTURES = ("rademacher", "rank-one", "activity")
TANGENTS = (1, 4)
SAMPLINGS = ("all", "size", "uniform", "adaptive")
KINDS = tuple(Kind(s, k, p) for s in STRUCTURES for k in TANGENTS for p in SAMPLINGS)
RANK_ONE = tuple(Kind("rank-one", 1, p) for p in ("all", "size"))
ACTIVITY = tuple(Kind("activity", 1, p) for p in SAMPLINGS)


@dataclass(frozen=True)
class Case:
    """A model, its batch, the kinds that are measured on it, and how many seconds it is timed for."""

    name: str
    model: Callable[[], nn.Module]
    kinds: Sequence[Kind] = KINDS
    shape: tuple[int, int, int] = IMAGE
    samples: int = 64
    seconds: float = 40.0
    execution: str = "eager"

    def build(self) -> tuple[nn.Module, Batch]:
        """The model at its initial weights, and a batch."""
        torch.manual_seed(0)
        model = self.model()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.samples, *self.shape, generator=generator)
        return model.train(), (x, torch.randint(CLASSES, (self.samples,), generator=generator))


def _ours(arch: str, depth: int, width: int) -> Callable[[], nn.Module]:
    return lambda: architectures.build(arch, depth, width, IMAGE, CLASSES)


def _torchvision(name: str, **options: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=CLASSES, **options)  # type: ignore[no-any-return]

    return build


CASES = (
    Case("mlp-d2", _ours("mlp", 2, 1024)),
    Case("mlp-d8", _ours("mlp", 8, 1024)),
    Case("mlp-d8-compiled", _ours("mlp", 8, 1024), RANK_ONE, execution="compile"),
    Case("mlp-d100", _ours("mlp", 100, 1024), RANK_ONE),
    Case("cnn-d4", _ours("cnn", 4, 64), RANK_ONE + ACTIVITY),
    Case("resnet18", _torchvision("resnet18"), RANK_ONE, COLOURED, 16),
    Case("vit_b_16", _torchvision("vit_b_16", image_size=COLOURED[1]), RANK_ONE, COLOURED, 8, 80.0),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, then store and draw the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/layers"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="share of each case's seconds to use")
    parser.add_argument("--draws", type=int, default=DRAWS, help="steps that a mean is taken over")
    parser.add_argument("--case", action="append", choices=[c.name for c in CASES], help="all by default")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if case.name in (asked.case or [case.name]):
            rows += _rows(case, case.seconds * asked.share, asked.draws)
            facts = {
                "command": command(),
                "environment": describe_environment("cpu", asked.threads),
            }
            store_experiment(asked.out, "layers", rows, facts)
    draw_all(pd.read_csv(asked.out / "layers.csv"), asked.out)


def _rows(case: Case, seconds: float, draws: int) -> Iterator[dict[str, Any]]:
    model, batch = case.build()
    specs = [BACKPROP, *(kind.spec for kind in case.kinds)]
    loss = nn.functional.cross_entropy
    compared = api.compare(model, loss, batch, specs, max_measure_seconds=seconds, execution=case.execution)
    timed = compared[compared["role"] == "method"].set_index("method")
    moments = Moments(model, batch, draws)
    for kind in case.kinds:
        own = timed.loc[methods.canonical_specs([kind.spec])[0]]
        yield {
            "case": case.name,
            "samples": case.samples,
            "method": own.name,
            "structure": kind.structure,
            "tangents": kind.tangents,
            "sampling": kind.sampling,
            **{key: own[key] for key in ("r", "ratio", "ratio_low", "ratio_high", "processes", "rounds")},
            "over": timed.loc[BACKPROP, "update"],
            "second_moment": moments(kind),
            "draws": draws if kind.structure == "activity" else None,
        }


class Moments:
    """E‖g‖² / ‖∇f‖² of any kind of tangents at a model's weights.

    If it is M for one tangent, it is (M + k − 1)/k for k tangents. If one layer is perturbed in each step,
    M = Σ M_l / p_l. For tangents of ±1, M = n and M_l = n_l ‖∇_l f‖² / ‖∇f‖² exactly. For activity, both are
    means over steps; each M_l is measured by itself, because a mean over layers that are drawn rarely and
    weighed heavily would take very many steps.
    """

    def __init__(self, model: nn.Module, batch: Batch, draws: int) -> None:
        self.model, self.batch, self.draws = model, batch, draws
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        named = trainable(model)
        gradient = torch.autograd.grad(value, list(named.values()))
        squares = {n: float(g.double().square().sum()) for n, g in zip(named, gradient, strict=True)}
        self.square = sum(squares.values())
        self.size = sum(p.numel() for p in named.values())
        self.of_weights = [u.size * sum(squares[n] for n in u.names) / self.square for u in units_of(model)]

    @functools.cached_property
    def activity(self) -> float:
        """Of noise on all layers' outputs."""
        return self._mean(self._step(Kind("activity", 1, "all")))

    @functools.cached_property
    def of_activity(self) -> list[float]:
        """Of noise on one layer's outputs, for each layer."""
        step = self._step(Kind("activity", 1, "uniform"))
        found = []
        for unit in range(len(step.sampler.units)):
            step.sampler.forced = Draw((unit,), (1.0,))
            found.append(self._mean(step))
        return found

    def __call__(self, kind: Kind) -> float:
        """The value for one kind of tangents."""
        activity = kind.structure == "activity"
        if kind.sampling == "all":
            one = self.activity if activity else float(self.size)
        else:
            by_layer = self.of_activity if activity else self.of_weights
            one = sum(m / p for m, p in zip(by_layer, self._probabilities(kind), strict=True))
        return (one + kind.tangents - 1) / kind.tangents

    def _step(self, kind: Kind) -> Any:
        model = copy.deepcopy(self.model)
        step = methods.find(kind.spec).prepare(model, nn.functional.cross_entropy, 0)
        step.get_ready(self.batch)
        return step

    def _probabilities(self, kind: Kind) -> list[float]:
        """The probabilities of the layers, once they are learned."""
        step = self._step(kind)
        for _ in range(LEARNING_IN if kind.sampling == "adaptive" else 0):
            step(self.batch, 0.0)
        return list(step.sampler.probabilities)

    @torch.no_grad()
    def _mean(self, step: Any) -> float:
        """The mean of ‖g‖² / ‖∇f‖² over steps from the same weights, from how they change the weights."""
        before = [p.detach().clone() for p in step.parameters]
        total = 0.0
        for _ in range(self.draws):
            step(self.batch, 1.0)
            for index, (parameter, value) in enumerate(zip(step.parameters, before, strict=True)):
                if index not in step.left_alone:
                    total += float((value - parameter).double().square().sum())
                    parameter.copy_(value)
        return total / self.draws / self.square


def draw_all(rows: pd.DataFrame, folder: Path) -> None:
    """Draw a figure of each case with more than two kinds, as SVG and PNG."""
    for name, own in rows.groupby("case").filter(lambda own: len(own) > 2).groupby("case"):
        with print_style():
            figure = draw(str(name), own)
            for ending in ("svg", "png"):
                save(figure, folder / f"layers-{name}.{ending}")


def draw(name: str, rows: pd.DataFrame) -> Figure:
    """Draw second moment against cost; colours stand for structures and markers for samplings."""
    samples, draws = rows["samples"].iloc[0], rows["draws"].max()
    lines = [
        f"{name}, batch {samples}; R over the fastest backprop with its 95 % interval; E‖g‖² at the initial "
        + (f"weights, of activity over {draws:g} steps a layer. " if draws > 0 else "weights. ")
        + ("Hollow: four tangents. " if rows["tangents"].gt(1).any() else "")
        + "Grey line: the frontier.",
    ]
    figure = new_figure("Variance against cost", lines, 4.0)
    ax = figure.subplots()
    best = frontier(rows, "ratio", "second_moment")
    ax.plot(best["ratio"], best["second_moment"], color=GREY, linewidth=1.0, drawstyle="steps-post", zorder=1)
    for row in rows.to_dict("records"):
        colour = COLOURS[STRUCTURES.index(row["structure"])]
        one = row["tangents"] == 1
        ax.errorbar(
            row["ratio"],
            row["second_moment"],
            xerr=[[row["ratio"] - row["ratio_low"]], [row["ratio_high"] - row["ratio"]]],
            color=colour,
            marker=MARKERS[SAMPLINGS.index(row["sampling"])],
            markerfacecolor=colour if one else "white",
            linestyle="none",
            label=f"{row['structure']}, {row['sampling']}" if one else None,
            linewidth=0.8,
        )
    ax.set(yscale="log", xscale="log", xlabel="R over backprop's", ylabel="E‖g‖² / ‖∇f‖²")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("{x:g}")
    ax.axvline(1.0, color=GREY, linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    main()
