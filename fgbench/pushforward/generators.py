"""The random number generators of Python and of numpy, by which some models leave out whole layers."""

from __future__ import annotations

import random
import sys
from typing import Any

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


def _as_tuple(state: Any) -> Any:
    name, key, *rest = state
    return (name, tuple(key.tolist()), *rest)
