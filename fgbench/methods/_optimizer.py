"""Optimisers of torch.optim by spec, `adam` or `sgd:momentum=0.9,weight_decay=5e-4`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.options import OR, split_spec

PLAIN_SGD = "sgd"
NOT_OPTIONS = ("params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize")


def make_optimizer(conditions: Conditions, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The conditions' optimiser, fused where it has a fused kernel; its learning rate is set at each step.

    Raises:
        UsageError: no such optimiser or option, or a value that it does not take.
    """
    spec = conditions.optimizer
    kind, options = _parsed(spec)
    takes = inspect.signature(kind).parameters
    always = {"capturable": True} if conditions.captured and "capturable" in takes else {}
    for more in ({"fused": True} if "fused" in takes else {}, {}):
        try:
            return kind(list(parameters), lr=1e-3, **options, **always, **more)
        except RuntimeError:  # no fused kernel for this device or dtype
            continue
        except (TypeError, ValueError) as error:
            raise UsageError(f"--optimizer {spec}: {error}.") from error
    raise UsageError(f"--optimizer {spec}: it cannot be built for these parameters.")


def optimize(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """One update by the gradients that the parameters hold."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


def canonical_optimizer(specs: str) -> str:
    """The spec in lower case, checked; or several, each of which a search tries, with `|` between them.

    Raises:
        UsageError: as `make_optimizer`, or the same one twice.
    """
    found = [_canonical(spec) for spec in specs.split(OR)]
    twice = {spec for spec in found if found.count(spec) > 1}
    if twice:
        raise UsageError(f"--optimizer {twice.pop()} is given twice.")
    return OR.join(found)


def _canonical(spec: str) -> str:
    make_optimizer(Conditions(optimizer=spec), [torch.zeros(1, requires_grad=True)])
    name, options = split_spec(spec)
    return f"{name.lower()}:{options}" if options else name.lower()


def _parsed(spec: str) -> tuple[Any, dict[str, Any]]:
    name, text = split_spec(spec)
    known = {n.lower(): c for n, c in vars(torch.optim).items() if _usable(c)}
    if name.lower() not in known:
        raise UsageError(f"--optimizer {name}: torch.optim has {', '.join(sorted(known))}.")
    kind = known[name.lower()]
    allowed = [p for p in inspect.signature(kind).parameters if p not in NOT_OPTIONS]
    options = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = part.partition("=")
        if key not in allowed:
            raise UsageError(f"--optimizer {name} has no option '{key}': it has {', '.join(allowed)}.")
        try:
            options[key] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            raise UsageError(f"--optimizer {spec}: '{value}' is no value for {key}.") from None
    return kind, options


def _usable(owner: Any) -> bool:
    """Those that step without a closure and over dense parameters of any shape."""
    if not (inspect.isclass(owner) and issubclass(owner, torch.optim.Optimizer)):
        return False
    return owner.__name__ not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")
