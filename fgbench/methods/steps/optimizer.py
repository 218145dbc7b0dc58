"""Optimisers of torch.optim from specs such as `adam` or `sgd:momentum=0.9,weight_decay=5e-4`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.specs.options import OR, split_spec

PLAIN_SGD = "sgd"
NOT_OPTIONS = ("params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize")


def make_optimizer(
    conditions: Conditions, parameters: Sequence[Tensor], kernel: str = "fused"
) -> torch.optim.Optimizer:
    """The conditions' optimiser; its learning rate is set at each step.

    Args:
        conditions: the group's.
        parameters: the parameters to update.
        kernel: `fused` or `foreach`; torch.optim chooses where the optimiser has no such kernel that works.

    Raises:
        UsageError: there is no such optimiser or option, or it does not take the value.
    """
    spec = conditions.optimizer
    kind, options = _parsed(spec)
    places = {(p.device, p.dtype) for p in parameters} if kernel == "fused" else ()
    asked = has_kernel(spec, kernel) and all(_fused_works(kind, *place) for place in places)
    always = {"capturable": True} if conditions.captured and has_kernel(spec, "capturable") else {}
    for more in ({kernel: True} if asked else {}, {}):
        try:
            return kind(list(parameters), lr=1e-3, **options, **always, **more)
        except RuntimeError:  # there is no such kernel for this device or dtype
            continue
        except (TypeError, ValueError) as error:
            raise UsageError(f"--optimizer {spec}: {error}.") from error
    raise UsageError(f"--optimizer {spec}: it cannot be built for these parameters.")


def has_kernel(spec: str, kernel: str) -> bool:
    """Whether an optimiser can be asked for `fused`, `foreach` or `capturable` kernels."""
    return kernel in inspect.signature(_parsed(spec)[0]).parameters


@cache
def _fused_works(kind: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a fused step moves every entry.

    Of PyTorch 2.11, SGD's leaves entries of 16 bits out on a CPU, and Adagrad's fails on a GPU.
    """
    tried = torch.ones(64, dtype=dtype, device=device, requires_grad=True)
    tried.grad = torch.ones_like(tried)
    try:
        kind([tried], lr=0.5, fused=True).step()
    except RuntimeError:
        return False
    return device.type != "cpu" or bool((tried != 1).all())  # without waiting for a GPU


class EachItsOwn:
    """A separate optimiser for each parameter, so that they can be updated one at a time.

    Like an optimiser of torch.optim it has a state by parameter, which can be stored and restored.
    """

    def __init__(self, conditions: Conditions, parameters: Sequence[Tensor]) -> None:
        self.by_parameter = {p: make_optimizer(conditions, [p]) for p in parameters}

    def of(self, parameter: Tensor) -> torch.optim.Optimizer:
        """The optimiser of a parameter."""
        return self.by_parameter[parameter]

    @property
    def state(self) -> dict[Tensor, Any]:
        """The optimisers' state, by parameter."""
        return {p: own for optimizer in self.by_parameter.values() for p, own in optimizer.state.items()}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimisers, each with one parameter."""
        return [group for optimizer in self.by_parameter.values() for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The state of all optimisers, in the order of the parameters."""
        return {"each": [optimizer.state_dict() for optimizer in self.by_parameter.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for optimizer, own in zip(self.by_parameter.values(), state["each"], strict=True):
            optimizer.load_state_dict(own)


def each_of(optimizer: torch.optim.Optimizer | EachItsOwn | None) -> list[torch.optim.Optimizer]:
    """The optimisers of torch.optim that a step's optimiser consists of."""
    if isinstance(optimizer, EachItsOwn):
        return list(optimizer.by_parameter.values())
    return [] if optimizer is None else [optimizer]


def optimize(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Update the parameters once, by the gradients in them."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


def canonical_optimizer(specs: str) -> str:
    """Check a spec, and give it in lower case; there may be several with `|` between them.

    Raises:
        UsageError: as for `make_optimizer`, or an optimiser is given twice.
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
            raise UsageError(f"--optimizer {name} has no option '{key}': it takes {', '.join(allowed)}.")
        try:
            options[key] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            raise UsageError(f"--optimizer {spec}: '{value}' is not a value for {key}.") from None
    return kind, options


def _usable(owner: Any) -> bool:
    """Whether a class is an optimiser that needs no closure and takes dense parameters of any shape."""
    if not (inspect.isclass(owner) and issubclass(owner, torch.optim.Optimizer)):
        return False
    return owner.__name__ not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")
