"""An optimiser's state under CUDA graphs, which has to stay in the same tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fgbench.errors import UsageError


class OptimizerState:
    """The tensors of an optimiser's state, which captured steps write to, and their initial values."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Follow an optimiser that has not taken a step yet.

        Raises:
            UsageError: its steps differ from each other by what the host does, so that one graph cannot do
                all of them.
        """
        if why := _why_not_captured(optimizer):
            raise UsageError(why)
        self.optimizer = optimizer
        self.tensors: dict[Tensor, dict[str, Tensor]] = {}
        self.first: dict[Tensor, dict[str, float]] = {}
        optimizer.register_load_state_dict_post_hook(self._keep_tensors)

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """At the end set the state back to what it was, or to that of a fresh optimiser.

        A fresh state is not always zero: NAdam begins with a product of 1, Rprop with the learning rate.
        """
        known = {p: {k: v.clone() for k, v in _tensors(own).items()} for p, own in self._state().items()}
        watched = {p: _Watched() for group in self.optimizer.param_groups for p in group["params"]}
        self.optimizer.state = defaultdict(dict, watched | self._state())
        yield
        for parameter, own in self._state().items():
            self.tensors[parameter] = _tensors(own)
            if isinstance(own, _Watched):
                # SGD's buffer begins as a copy of the first gradient, which is what a step from zero gives.
                sgd = isinstance(self.optimizer, torch.optim.SGD)
                self.first[parameter] = dict.fromkeys(own.first, 0.0) if sgd else own.first
        self._set(known)

    def _state(self) -> dict[Tensor, dict[str, Any]]:
        return {parameter: own for parameter, own in self.optimizer.state.items() if own}

    def _keep_tensors(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy a loaded state into the tensors that the graphs write to."""
        self._set({p: _tensors(own) for p, own in self._state().items()})

    @torch.no_grad()
    def _set(self, values: dict[Tensor, dict[str, Tensor]]) -> None:
        """Set all tensors to these values, or to their initial values where none is given."""
        for parameter, own in self.tensors.items():
            given, plain = values.get(parameter, {}), dict(self.optimizer.state.get(parameter, {}))
            for key, tensor in own.items():
                tensor.copy_(given[key]) if key in given else tensor.fill_(self.first[parameter][key])
            self.optimizer.state[parameter] = plain | own


def _why_not_captured(optimizer: torch.optim.Optimizer) -> str:
    """Why a CUDA graph, which repeats one step, cannot do what the optimiser does; empty if it can."""
    own = optimizer.defaults
    if own.get("dampening"):
        return (
            "--optimizer sgd with dampening: its first step leaves dampening out, which a CUDA graph that "
            "repeats one step cannot; leave dampening or --exec cudagraph out."
        )
    # Other optimisers count steps on the device; Adagrad needs the count for its decay alone.
    counts = isinstance(optimizer, torch.optim.Adagrad) and own["lr_decay"] and not own["fused"]
    if counts or not ("capturable" in own or isinstance(optimizer, torch.optim.SGD | torch.optim.Adagrad)):
        name = type(optimizer).__name__.lower()
        return (
            f"--optimizer {name}{' with lr_decay' * bool(counts)}: it counts its steps on the host, where a "
            "CUDA graph cannot count; leave --exec cudagraph out."
        )
    return ""


class _Watched(dict[str, Any]):
    """An optimiser's state of one parameter, which remembers the number that each tensor began with."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, float] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self and isinstance(value, Tensor):
            self.first[key] = float(value.flatten()[0])
        super().__setitem__(key, value)


def _tensors(own: dict[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in own.items() if isinstance(value, Tensor)}
