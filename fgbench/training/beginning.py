"""What a warm-up leaves no trace of: model, optimiser, generators and step, put back as they were."""

from __future__ import annotations

import copy
from itertools import chain

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
            self.step.optimizer.load_state_dict(self.optimizer)
        self.step.load_state(self.own)
        for generator, state in zip(self.step.generators(), self.generators, strict=True):
            generator.set_state(state)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
