"""The quality phase: compare each method's estimates with the gradient, at the start and along training."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from fgbench.measurement.clock import Clock
from fgbench.measurement.quality import ALL, Draws, Quality, Slope
from fgbench.measurement.steps_ratio import Mean
from fgbench.methods import Batch
from fgbench.plan import Config
from fgbench.running.arms import Problem
from fgbench.running.group_run import FIRST_SEED, GroupRun
from fgbench.running.judging import START, Judge, Reader, WeightsPoint
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.phases import in_order
from fgbench.running.phases.train import weights_folder
from fgbench.running.reporting import blamed, failures_reported
from fgbench.running.weights import KeptWeights, load_weights

SHARE = 0.05  # the phase takes at most this share of the seconds of all other phases
LARGE_BATCHES = 32  # the mean gradient of so many batches stands for that of all data
LEAST_DRAWS, MOST_DRAWS = 4, 64


@dataclass(frozen=True, kw_only=True)
class QualityRequest(OfGroup):
    """What the process is asked.

    Attributes:
        weights: path of the folder in which training left weights.
        reference: the method whose weights all methods are compared at.
        seconds: about how long to draw estimates, once the steps are ready.
    """

    weights: str
    reference: str
    seconds: float


@dataclass(frozen=True)
class Estimated(Message):
    """A row of quality.csv: a method's estimates at some weights. `Quality` explains the other fields.

    Attributes:
        weights: the method that trained the weights, or `start`.
        iteration: how many steps it had taken.
        layer: the module's name, or `all`.
        gradient_norm: ‖∇F‖, the norm of the large batch's gradient.
        clipped: the share of directional derivatives that were clipped; None where the method clips none.
        non_finite: the share of directional derivatives that are not finite; for a method without
            directional derivatives, the share of estimates.
        unbiased: whether the method says that the mean of its estimates is the gradient.
    """

    method: str
    weights: str
    iteration: int
    layer: str
    draws: int
    cosine: float | None
    cosine_error: float | None
    cosine_large: float | None
    cosine_large_error: float | None
    second_moment: float | None
    second_moment_error: float | None
    second_moment_large: float | None
    second_moment_large_error: float | None
    along: float | None
    along_error: float | None
    along_large: float | None
    along_large_error: float | None
    signal_to_noise: float | None
    second_moment_theory: float | None
    cosine_theory: float | None
    gradient_norm: float | None
    clipped: float | None
    non_finite: float | None
    unbiased: bool
    status: str


@dataclass(frozen=True)
class TooSlow(Message):
    """Not even the fewest draws at the start fit into the time given; they would take `seconds`."""

    seconds: float


class QualityOfSteps(Phase):
    """Compares estimates with reverse mode's gradient, at the reference's weights and at the method's own."""

    name = "quality"
    request = QualityRequest
    reports = (Estimated, TooSlow)
    tables: ClassVar[Tables] = {"quality": every_row}

    def asked(self, config: Config) -> bool:
        """Whenever there is training, which the figures help to explain."""
        return config.train

    def after(self, config: Config) -> tuple[str, ...]:
        """After the training that leaves the weights."""
        return ("train",)

    def seconds(self, config: Config) -> float:
        """`SHARE` of what all other phases take, but at least twice what a process takes to start."""
        others = sum(phase.seconds(config) for phase in in_order(config) if phase.name != self.name)
        return max(SHARE * others, 2 * STARTUP_SECONDS)

    def run(self, group: GroupRun) -> None:
        """Ask one process for all methods, and remove the weights afterwards."""
        if group.finished(self.name) or not group.methods:
            return
        seconds, folder = self.seconds(group.plan.config), weights_folder(group)
        group.begin("what a step is worth: estimates against the gradient", seconds)
        asked = {
            "weights": str(folder.absolute()),
            "reference": group.plan.reference,
            "seconds": seconds - STARTUP_SECONDS,
        }
        with group.jobs(self.name, group.methods, seed=FIRST_SEED) as jobs:
            for event in group.work(self, jobs, FIRST_SEED, **asked):
                match event:
                    case Estimated():
                        group.store("quality", asdict(event))
                    case TooSlow():
                        group.note(
                            f"what steps are worth was left out: it would take {event.seconds:.0f} s, and "
                            f"{SHARE:.0%} of this run is {seconds:.0f} s."
                        )
        _remove(folder)

    def measure(self, matched: Matched, asked: QualityRequest, report: Report) -> None:
        """Compare all methods at the start and at the reference's weights, and each method at its own."""
        points = list(_points(matched, asked))
        per_epoch = matched.order.samples // matched.order.batch
        count = min(LARGE_BATCHES, per_epoch)
        # The large batch is the end of the first epoch, as the first draws are from its beginning.
        large = matched.order.batches(matched.data, per_epoch - count, count)
        measure_quality(matched.problem(large), points, asked.seconds, report)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


# ---- in the worker


def _points(matched: Matched, asked: QualityRequest) -> Iterator[WeightsPoint]:
    def batches_from(iteration: int) -> Callable[[int], Batch]:
        return lambda number: matched.order.batches(matched.data, iteration + number, 1)[0]

    yield WeightsPoint(START, 0, asked.methods, batches_from(0))
    for file in KeptWeights(Path(asked.weights)).files():
        kept = load_weights(file, matched.device)
        specs = asked.methods if kept.method == asked.reference else (kept.method,)
        if kept.method in asked.methods:
            load = partial(load_weights, file, matched.device)
            yield WeightsPoint(kept.method, kept.iteration, specs, batches_from(kept.iteration), load)


def measure_quality(problem: Problem, points: Sequence[WeightsPoint], seconds: float, report: Report) -> None:
    """Report the quality of the estimates of all methods, in about `seconds` once the steps are ready.

    Args:
        problem: its batches together are the large batch.
        points: where estimates are compared; the first is the start, with all methods.
        seconds: time for draws and gradients. If it is short there are fewer draws, or only those at the
            start; if even these would take longer, `TooSlow` is reported.
        report: is given `Estimated` or `TooSlow`.
    """
    judge = Judge(problem)
    readers, taken = {}, {}
    for spec in points[0].methods:
        with failures_reported(report, spec), blamed(report, spec):
            reader = Reader(problem, spec)
            taken[spec] = _seconds(partial(judge.rehearse, reader, points[0]), problem.clock)
            readers[spec] = reader
    backward = _seconds(partial(judge.gradient, points[0].batch(0), 0), problem.clock)
    wanted = [replace(p, methods=[m for m in p.methods if m in readers]) for p in points]
    for some in (wanted, wanted[:1]):
        large = len(some) * len(problem.batches) * backward
        draw = sum(backward + sum(taken[spec] for spec in point.methods) for point in some)
        count = int(min((seconds - large) / draw, MOST_DRAWS))
        if count >= LEAST_DRAWS:
            break
    else:
        report(TooSlow(large + LEAST_DRAWS * draw))
        return
    for point in some:
        drawn, length = judge.draw(readers, point, count, report)
        for spec, own in drawn.items():
            for row in _rows(readers[spec], point, own, judge.parameters, length):
                report(row)


def _seconds(run: Callable[[], object], clock: Clock) -> float:
    """Seconds of a second call, with its work on the device; the first also does what is done only once."""
    run()
    return clock.time(run).seconds


def _rows(
    reader: Reader, point: WeightsPoint, draws: Draws, parameters: Sequence[Tensor], length: float
) -> Iterator[Estimated]:
    slopes = [Slope(p.shape, s) for p, s in zip(parameters, draws.shares(), strict=True)]
    theory = reader.method.theory(slopes)
    clipped, non_finite = reader.shares()
    for layer, quality in draws.by_layer().items():
        whole = layer == ALL
        yield Estimated(
            method=reader.spec,
            weights=point.weights,
            iteration=point.iteration,
            layer=layer,
            draws=quality.draws,
            **_figures(quality),
            signal_to_noise=_known(quality.signal_to_noise),
            second_moment_theory=theory.second_moment if whole else None,
            cosine_theory=theory.cosine if whole else None,
            gradient_norm=_known(length) if whole else None,
            clipped=clipped if whole else None,
            non_finite=non_finite if whole else None,
            unbiased=reader.method.unbiased,
            status=quality.status,
        )


def _figures(quality: Quality) -> dict[str, float | None]:
    means = {name: mean for name, mean in vars(quality).items() if isinstance(mean, Mean)}
    values = {name: _known(mean.value) for name, mean in means.items()}
    return values | {f"{name}_error": _known(mean.error) for name, mean in means.items()}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


phase = QualityOfSteps()
