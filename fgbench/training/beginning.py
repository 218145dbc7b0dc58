"""What a warm-up leaves no trace of: model, optimiser, generators and step, put back as they were."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.methods import Step


class Beginning:
    """A model and its step as they are now, to be put back after steps that should not count.

    All is put back in place: what was traced, compiled or captured meanwhile holds the tensors themselves.
    """

    def __init__(self, model: nn.Module, step: Step) -> None:
        self.model, self.step = model, step
        self.tensors = {name: t.detach().clone() for name, t in _tensors(model).items()}
        self.optimizer = copy.deepcopy(step.optimizer.state_dict()) if step.optimizer else None
        self.own = copy.deepcopy(step.state())
        self.generators = [generator.get_state() for generator in step.generators()]

    @torch.no_grad()
    def put_back(self) -> None:
        """The next step is bit for bit the one that would have come first."""
        for name, tensor in _tensors(self.model).items():
            tensor.copy_(self.tensors[name])
        if self.step.optimizer and self.optimizer is not None:
            if self.step.in_place:
                put_back_in_place(self.step.optimizer, self.optimizer)
            else:
                self.step.optimizer.load_state_dict(self.optimizer)
        self.step.load_state(self.own)
        for generator, state in zip(self.step.generators(), self.generators, strict=True):
            generator.set_state(state)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))


@torch.no_grad()
def put_back_in_place(optimizer: torch.optim.Optimizer, before: dict[str, Any]) -> None:
    """Fill an optimiser's state tensors with those of a state dict, or with what it begins with.

    A momentum that is not there before the first step begins at zero, from which the first step makes the
    gradient as it does where there is none: without dampening.

    Args:
        optimizer: that has taken a step since.
        before: its `state_dict` then.
    """
    fresh = begun(optimizer) if not before["state"] else {}
    parameters = chain(*(group["params"] for group in optimizer.param_groups))
    for index, parameter in enumerate(parameters):
        held = before["state"].get(index, fresh.get(parameter, {}))
        own = optimizer.state[parameter]
        for name, value in own.items():
            if isinstance(value, Tensor):
                value.copy_(held[name]) if name in held else value.zero_()
            else:
                own[name] = held.get(name)


def begun(optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, Any]]:
    """The state that an optimiser makes at its first step, before its first update, by parameter.

    Only of parameters with a gradient, as the first step would.
    """
    # No public way leads to it: a step makes the state and moves it in one go.
    make: Any = optimizer._init_group  # type: ignore[attr-defined]
    lists = len(inspect.signature(make).parameters) - 1
    kept, optimizer.state = optimizer.state, defaultdict(dict)
    try:
        for group in optimizer.param_groups:
            make(group, *([] for _ in range(lists)))
        return dict(optimizer.state)
    finally:
        optimizer.state = kept
