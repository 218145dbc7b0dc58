"""Random number generators: torch's, and Python's and numpy's, by which some models leave out layers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

SEEDERS = [  # without `set_rng_state`, by which `torch.random.fork_rng` puts states back, also for the engine
    *((place, name) for place in (torch, torch.random) for name in ("manual_seed", "seed")),
    *((torch.cuda, name) for name in ("manual_seed", "manual_seed_all")),
]
SEEDS = 2**32  # of numpy's


def states(*, numpy: bool = True) -> tuple[Any, Any]:
    """The states of both, as tuples of numbers; None for numpy's if unwanted or never imported."""
    there = sys.modules.get("numpy") if numpy else None
    return random.getstate(), None if there is None else _as_tuple(there.random.get_state())


def seeded(seed: int) -> tuple[Any, Any]:
    """The states of both after seeding."""
    numpy = sys.modules.get("numpy")
    own = None if numpy is None else _as_tuple(numpy.random.RandomState(seed % SEEDS).get_state())
    return random.Random(seed).getstate(), own


def set_states(python: Any, numpy: Any) -> None:
    """Set both to what `states` gave."""
    random.setstate(python)
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)


def is_generator(value: Any) -> bool:
    """Whether it is a generator of its own, of Python or of numpy, which `states` does not include."""
    numpy = sys.modules.get("numpy")
    own = () if numpy is None else (numpy.random.Generator, numpy.random.RandomState)
    return isinstance(value, (random.Random, *own))


@contextmanager
def seedings() -> Iterator[list[str]]:
    """Note which functions set torch's generators meanwhile, as straight-line code would not do it again."""
    noted: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            noted.append(name)
            return function(*arguments, **options)

        return called

    own = [(place, name, getattr(place, name)) for place, name in SEEDERS]
    for place, name, function in own:
        setattr(place, name, noting(name, function))
    try:
        yield noted
    finally:
        for place, name, function in own:
            setattr(place, name, function)


def _as_tuple(state: Any) -> Any:
    name, key, *rest = state
    return (name, tuple(key.tolist()), *rest)
