"""Layer-sampled tangents: a step perturbs one layer, drawn with probability p, and weighs it by 1/p.

The estimate is unbiased for any p > 0, and its second moment is Σ M_l / p_l, with M_l = E‖estimate of layer
l alone‖². Tangents of ±1 have M_l = n_l ‖∇_l f‖², so that p_l = n_l / n gives exactly n ‖∇f‖², the second
moment of a tangent of all layers. p_l ∝ √M_l is best for a number of steps, and p_l ∝ √(M_l / c_l) for an
amount of work, where c_l is the cost of a step with layer l.

k tangents are k draws at equal distances (systematic sampling; Madow 1949): layer l is drawn ⌊k p_l⌋ or
⌈k p_l⌉ times, so that no layer with p_l ≤ 1/k is drawn twice. Successive steps go through the strata of a
cycle in random order. A cycle thus draws every layer about as often as its probability says, and each single
step draws it with that probability. Draws are made on the host, which never has to wait for the device.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fgbench.methods import Batch, Step, trainable
from fgbench.methods.steps.options import LayerOptions
from fgbench.pushforward.context import attributes_kept, buffers_kept, draws_again, state_kept

LONGEST_CYCLE = 16  # steps; that is enough, as neighbouring layers cost about the same
SHORTEST_CYCLE = 4  # steps; squared estimates then reach the host before the next cycle needs them
NEWEST = 0.05  # the latest estimate's share in a running mean of squares, once there are 20


@dataclass(frozen=True)
class Unit:
    """Parameters or outputs that are perturbed together: those of a layer and of the norms that follow it.

    Attributes:
        owner: the name of the module that its first parameters belong to.
        names: the names of its parameters, or of the operations whose outputs are perturbed.
        size: how many numbers are perturbed.
    """

    owner: str
    names: tuple[str, ...]
    size: int


def units_of(model: nn.Module) -> list[Unit]:
    """The units of a model, in the model's order: one for the parameters of each module.

    A module whose parameters are all vectors, such as a norm, joins the unit before it. By itself, its few
    parameters would rarely be drawn and would then have a very large weight.
    """
    by_owner: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        by_owner.setdefault(name.rpartition(".")[0], {})[name] = parameter
    groups = [
        (
            Unit(owner, tuple(own), sum(p.numel() for p in own.values())),
            all(p.dim() < 2 for p in own.values()),
        )
        for owner, own in by_owner.items()
    ]
    return joined(groups)


def joined(groups: Sequence[tuple[Unit, bool]]) -> list[Unit]:
    """The units, with each marked one joined to the one before it (at the start, to the one after it)."""
    found: list[Unit] = []
    first_alone = True
    for unit, joins in groups:
        if found and (joins or first_alone):
            before = found.pop()
            unit = Unit(before.owner, before.names + unit.names, before.size + unit.size)
        first_alone = first_alone and joins
        found.append(unit)
    return found


@dataclass(frozen=True)
class Draw:
    """The draw of one step.

    Attributes:
        units: for each of the k tangents, the index of the unit that it perturbs, ascending.
        probabilities: for each of the k tangents, the probability p of its unit.
    """

    units: tuple[int, ...]
    probabilities: tuple[float, ...]

    @property
    def rows(self) -> dict[int, range]:
        """By unit, the indices of its tangents, which are consecutive."""
        starts = {unit: self.units.index(unit) for unit in self.units}
        return {unit: range(start, start + self.units.count(unit)) for unit, start in starts.items()}

    def weights(self, like: Tensor) -> Tensor | float:
        """1/p of each tangent, [k]; a plain number if there is only one tangent."""
        weights = [1 / p for p in self.probabilities]
        return weights[0] if len(weights) == 1 else filled(weights, like)


def filled(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers of the host on the device; each is filled in, because a copy would make the host wait."""
    return torch.stack([like.new_full((), value) for value in values])


class Sampler:
    """Draws the units of each step, and learns their second moments if the options ask for it."""

    def __init__(self, units: Sequence[Unit], count: int, options: LayerOptions, seed: int) -> None:
        """Begin with the first cycle.

        Args:
            units: the units to draw from.
            count: k, the number of tangents in a step.
            options: `sampling`, `floor` and `bound`.
            seed: decides the draws.
        """
        self.units, self.count, self.options = list(units), count, options
        self.random = random.Random(f"layers {seed}")
        round_of_all = math.ceil(min(len(units), LONGEST_CYCLE) / count)
        self.cycle = round_of_all * math.ceil(SHORTEST_CYCLE / round_of_all)
        self.strata: list[int] = []  # those left in this cycle
        self.forced: Draw | None = None
        self.costs = [1.0] * len(units)
        self.means = [0.0] * len(units)
        self.seen = [0] * len(units)
        # Squared estimates of the last cycle and of this one, until they are used.
        self.last: list[_Squares] = []
        self.latest: list[_Squares] = []
        self.probabilities = self._probabilities()

    @property
    def adaptive(self) -> bool:
        """Whether it learns second moments."""
        return self.options.sampling == "adaptive"

    def draw(self) -> Draw:
        """Draw the units of the next step.

        Probabilities change only between cycles. Within one they would depend on which strata are left, and
        the estimate would be biased.
        """
        if self.forced is not None:
            return self.forced
        if not self.strata:
            self._learn()
            self.strata = self.random.sample(range(self.cycle), self.cycle)
        return self._at((self.strata.pop() + self.random.random()) / self.cycle)

    def _at(self, share: float) -> Draw:
        """The draw at a share, in [0, 1), of the distance between two tangents."""
        ends = list(accumulate(self.probabilities))
        last = len(ends) - 1  # rounding may leave the sum below 1
        units = tuple(min(bisect_right(ends, (share + i) / self.count), last) for i in range(self.count))
        return Draw(units, tuple(self.probabilities[unit] for unit in units))

    def outcomes(self) -> list[Draw]:
        """All possible draws, which are at most as many as units as long as probabilities do not change.

        With k adaptive tangents, these are the draws that are possible in the first cycle.
        """
        if self.count == 1:
            return [Draw((i,), (p,)) for i, p in enumerate(self.probabilities)]
        ends = (end * self.count % 1.0 for end in accumulate(self.probabilities))
        edges = sorted({0.0, *ends, 1.0})
        found = {d.units: d for d in (self._at((a + b) / 2) for a, b in pairwise(edges))}
        return list(found.values())

    def each_worst(self) -> Iterator[None]:
        """Iterate over the sets of layers that may need the most memory; `draw` gives that set meanwhile.

        With one tangent these are the first layer of each size, as its tangent lives longest; with several,
        the first layers and the largest ones.
        """
        places = range(len(self.units))
        sizes = [unit.size for unit in self.units]
        if self.count == 1:
            sets: list[tuple[int, ...]] = [(sizes.index(size),) for size in dict.fromkeys(sizes)]
        else:
            by_size = sorted(places, key=lambda i: -sizes[i])
            sets = [tuple(sorted(s[i % len(s)] for i in range(self.count))) for s in (list(places), by_size)]
        for units in sets:
            self.forced = Draw(units, tuple(self.probabilities[unit] for unit in units))
            yield
        self.forced = None

    def note(self, units: Sequence[int], squares: Tensor) -> None:
        """Remember ‖estimate‖² of these units without the factor 1/p: [len(units)], on the device."""
        if self.adaptive:
            self.latest.append(_Squares(tuple(units), squares))

    def _learn(self) -> None:
        """Use the squared estimates of the last cycle but one, which the device should have by now."""
        for squares in self.last:
            for unit, value in zip(squares.units, squares.values(), strict=True):
                self.seen[unit] += 1
                share = max(1 / self.seen[unit], NEWEST)
                self.means[unit] += share * (value - self.means[unit])
        self.last, self.latest = self.latest, []
        self.probabilities = self._probabilities()

    def _probabilities(self) -> list[float]:
        count = len(self.units)
        if self.options.sampling == "uniform":
            return [1 / count] * count
        shares = _normalised([float(unit.size) for unit in self.units])
        if self.adaptive:
            learned = [math.sqrt(m / c) for m, c in zip(self.means, self.costs, strict=True)]
            if all(self.seen) and 0 < sum(learned) < math.inf:
                shares = _normalised(learned)
            floor = self.options.floor
            shares = [(1 - floor) * s + floor / count for s in shares]
        least = 1 / max(self.options.bound, count) if self.options.bound else 0.0
        return _at_least(least, shares)

    def state(self) -> dict[str, Any]:
        """Everything that its next draws depend on, except the costs."""
        waiting = {name: [(s.units, s.values()) for s in getattr(self, name)] for name in ("last", "latest")}
        kept = {name: list(getattr(self, name)) for name in KEPT}
        return {"random": self.random.getstate(), **kept, **waiting}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.random.setstate(state["random"])
        for name in KEPT:
            setattr(self, name, list(state[name]))
        for name in ("last", "latest"):
            setattr(self, name, [_Squares(tuple(units), torch.tensor(v)) for units, v in state[name]])


def each_outcome(step: Step, model: nn.Module, sampler: Sampler, batch: Batch) -> Iterator[Draw]:
    """Iterate over all possible draws, so that the caller can run a pass with each to make it ready.

    The first draw comes twice, because a model may still set itself up during its first call. Buffers, what
    the model holds in attributes, and random numbers are restored afterwards.
    """
    before = [generator.get_state() for generator in step.generators()]
    outcomes = sampler.outcomes()
    with attributes_kept(model):
        for drawn in (outcomes[0], *outcomes):
            with draws_again(batch[0].device), buffers_kept(model):
                yield drawn
    for generator, state in zip(step.generators(), before, strict=True):
        generator.set_state(state)


KEPT = ("strata", "means", "seen", "probabilities")


class _Squares:
    """Numbers that are being copied from the device to the host."""

    def __init__(self, units: tuple[int, ...], squares: Tensor) -> None:
        self.units = units
        self.tensor = squares.detach().to("cpu", non_blocking=True)
        self.arrived = None
        if squares.is_cuda:
            self.arrived = torch.cuda.Event()
            # On the stream of the copy: a caller's model may be on another device than the current one.
            self.arrived.record(torch.cuda.current_stream(squares.device))

    def values(self) -> list[float]:
        """The numbers, one for each unit; waits until they have arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [float(value) for value in self.tensor]


def _normalised(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total for value in values]


def _at_least(least: float, shares: Sequence[float]) -> list[float]:
    """The shares raised to `least` where they are below it; the others keep their proportions."""
    low: set[int] = set()
    while len(low) < len(shares):
        rest = sum(s for i, s in enumerate(shares) if i not in low)
        scale = (1 - least * len(low)) / rest
        lower = {i for i, s in enumerate(shares) if i not in low and s * scale < least}
        if not lower:
            return [least if i in low else s * scale for i, s in enumerate(shares)]
        low |= lower
    return [1 / len(shares)] * len(shares)


@torch.no_grad()
def costs(model: nn.Module, x: Tensor, units: Sequence[Unit]) -> list[float]:
    """By unit, the cost of a step that perturbs it, in evaluations: 1 plus the share of the pass from it on.

    Costs are counted in floating-point operations, and are therefore the same on every machine.
    """
    before: dict[str, float] = {}

    def entering(owner: str, *call: Any) -> None:
        before.setdefault(owner, counter.get_total_flops())

    modules = dict(model.named_modules())
    with FlopCounterMode(display=False) as counter, draws_again(x.device), state_kept(model):
        hooks = [m.register_forward_pre_hook(partial(entering, owner)) for owner, m in modules.items()]
        model(x)
        total = counter.get_total_flops()
    for hook in hooks:
        hook.remove()
    return [1 + (1 - _entered(unit.owner, before) / total if total else 1.0) for unit in units]


def _entered(owner: str, before: Mapping[str, float]) -> float:
    """FLOPs before a module was called; if it is never called, before the module that contains it."""
    while owner and owner not in before:
        owner = owner.rpartition(".")[0]
    return before.get(owner, 0.0)
