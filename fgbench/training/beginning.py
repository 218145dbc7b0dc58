"""Undo a warm-up: put model, optimiser, random generators and step back as they were."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from fgbench.methods import Step


class Beginning:
    """The state of a model and its step, to be restored after steps that should not count.

    Tensors are overwritten in place, because compiled or captured code keeps pointing to them.
    """

    def __init__(self, model: nn.Module, step: Step) -> None:
        self.model, self.step = model, step
        self.tensors = {name: t.detach().clone() for name, t in _tensors(model).items()}
        self.optimizer = copy.deepcopy(step.optimizer.state_dict()) if step.optimizer else None
        self.own = copy.deepcopy(step.state())
        self.generators = [generator.get_state() for generator in step.generators()]

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore the state: the next step is bit for bit as if there had been no warm-up."""
        for name, tensor in _tensors(self.model).items():
            tensor.copy_(self.tensors[name])
        if self.step.optimizer and self.optimizer is not None:
            self.step.optimizer.load_state_dict(self.optimizer)
        self.step.load_state(self.own)
        for generator, state in zip(self.step.generators(), self.generators, strict=True):
            generator.set_state(state)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
