"""The cases of an experiment on test functions, as a suite's settings give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fgbench import functions, methods
from fgbench.errors import UsageError

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Case:
    """One function in n dimensions.

    Attributes:
        function: the function's registered name.
        n: the number of dimensions.
        learning_rates: by method spec; only these methods are run.
        iterations: the steps of every run.
        seeds: how many runs a method that draws has, or how many by method; as many as in the experiment's
            other cases where it is not said.
    """

    function: str
    n: int
    learning_rates: Mapping[str, float]
    iterations: int
    seeds: int | Mapping[str, int] | None = None

    @property
    def name(self) -> str:
        """The beginning of its figure keys."""
        return f"{self.function}/{self.n}"

    def problem(self, dtype: torch.dtype) -> tuple[functions.Point, methods.Loss, methods.Batch]:
        """The point, loss and batch of `functions.as_problem`."""
        return functions.as_problem(functions.find(self.function), self.n, dtype)

    def seeds_of(self, spec: str, usual: int) -> range:
        """The seeds to run a method with; a method that draws nothing needs only one."""
        own = self.seeds.get(spec) if isinstance(self.seeds, Mapping) else self.seeds
        return range((own or usual) if self.draws(spec) else 1)

    def draws(self, spec: str) -> bool:
        """Whether a method's steps depend on a seed."""
        model, loss, _ = self.problem(torch.float64)
        return bool(methods.find(spec).prepare(model, loss, 0).generators())


def cases_of(settings: Mapping[str, Any]) -> list[Case]:
    """The cases of an experiment's settings, checked.

    Raises:
        UsageError: a function, a size, a method or a dtype is unknown, or a case is given twice.
    """
    found: list[Case] = []
    for table in settings["cases"]:
        try:
            case = Case(**table)
        except TypeError as error:
            raise UsageError(f"case {dict(table)}: {error}") from error
        if case.name in (other.name for other in found):
            raise UsageError(f"case {case.name} is given twice: give all its methods in one case.")
        case.problem(dtype_of(settings))
        for spec in case.learning_rates:
            methods.find(spec)
        own = case.seeds if isinstance(case.seeds, Mapping) else {}
        if strange := own.keys() - case.learning_rates:
            raise UsageError(f"case {case.name}: seeds of {min(strange)}, which has no learning rate.")
        found.append(case)
    return found


def dtype_of(settings: Mapping[str, Any]) -> torch.dtype:
    """The dtype of an experiment's settings, float64 where they leave it out.

    Raises:
        UsageError: there is no such dtype.
    """
    name = settings.get("dtype", "float64")
    if name not in DTYPES:
        raise UsageError(f"dtype {name}: must be one of {', '.join(DTYPES)}.")
    return DTYPES[name]
