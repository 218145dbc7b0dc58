"""How a learning rate decays while training: the values of `--lr-decay`.

A factor follows from the step alone. A job that was interrupted therefore goes on at the rate it had, and
methods that have no optimiser of torch's decay as the others do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fgbench.errors import UsageError
from fgbench.specs.options import option, parse_options, split_spec

OPTION = "--lr-decay"
FORMS = "a number from 0 on, step:every=1000,factor=0.1 or cosine:warmup=0"


class Decay(ABC):
    """What multiplies a learning rate in the course of a training job."""

    needs_an_end = False  # whether the factor depends on how many steps the job has

    @abstractmethod
    def at(self, step: int, steps: float) -> float:
        """The factor at a step, counted from 0, of a job of at most `steps`."""

    @abstractmethod
    def in_words(self) -> str:
        """What happens to the rate, as a report says it; empty if nothing does."""


@dataclass(frozen=True)
class Exponential(Decay):
    """exp(−d·i) at step i (Baydin et al. 2022); d = 0 is a rate that stays."""

    d: float = 0.0

    def at(self, step: int, steps: float) -> float:
        """The factor at a step, counted from 0."""
        return math.exp(-self.d * step)

    def in_words(self) -> str:
        """What happens to the rate."""
        return f"· exp(−{self.d:g} i) at step i" if self.d else ""


STAYS = Exponential()


@dataclass(frozen=True)
class Stairs(Decay):
    """A constant factor after every so many steps, as StepLR of torch (Fournier et al. 2023)."""

    every: int = option(1000, "steps between two decays", minimum=1)
    factor: float = option(0.1, "what multiplies the rate at each", minimum=0)

    def at(self, step: int, steps: float) -> float:
        """The factor at a step, counted from 0."""
        return self.factor ** (step // self.every)

    def in_words(self) -> str:
        """What happens to the rate."""
        return f"· {self.factor:g} every {self.every} steps"


@dataclass(frozen=True)
class Cosine(Decay):
    """Half a cosine down to 0 at the last step (Loshchilov and Hutter 2017), after a linear warm-up."""

    warmup: int = option(0, "steps in which the rate first rises", minimum=0)
    needs_an_end = True

    def at(self, step: int, steps: float) -> float:
        """The factor at a step, counted from 0; 0 after the last one."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        return (1 + math.cos(math.pi * share)) / 2

    def in_words(self) -> str:
        """What happens to the rate."""
        warm = f" after {self.warmup} steps of warm-up" if self.warmup else ""
        return f"to 0 in half a cosine{warm}"


SHAPES: dict[str, type[Decay]] = {"step": Stairs, "cosine": Cosine}


def decay_of(asked: float | str) -> Decay:
    """The decay that is asked for: a number d for exp(−d·i), or a spec.

    Raises:
        UsageError: it is neither, or its options are wrong.
    """
    name, options = split_spec(str(asked))
    if name in SHAPES:
        return parse_options(SHAPES[name], f"{OPTION} {name}", options)
    try:
        d = float(asked)
    except ValueError:
        d = math.nan
    if not 0 <= d < math.inf:
        raise UsageError(f"{OPTION} {asked}: must be {FORMS}.")
    return Exponential(d)
