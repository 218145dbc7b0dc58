"""Backpropagation, as strong as PyTorch has it: the baseline of every ratio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Part, Step, trainable
from fgbench.methods._checkpoint import Checkpointed
from fgbench.methods._compile import compiled
from fgbench.methods._optimizer import PLAIN_SGD, make_optimizer, optimize
from fgbench.options import option


@dataclass(frozen=True)
class Backprop(Method):
    """Reverse-mode gradient and an optimiser."""

    update: str = option(
        "fused",
        "fused: the optimiser's fused kernel after the backward pass; in-backward: each parameter as "
        "soon as its gradient is there, which is then freed",
        choices=("fused", "in-backward"),
    )
    checkpoint: bool = option(
        False, "activation checkpointing: keep segments' inputs alone, compute the rest again going back"
    )
    segments: str = option(
        "layer",
        "of checkpointing: layer, one for each layer with parameters; sqrt, √depth of them",
        choices=("layer", "sqrt"),
    )

    summary: ClassVar[str] = "reverse-mode gradient, the optimiser's own update"
    source: ClassVar[str] = (
        "torch.optim, fused; PyTorch's optimizer-in-backward tutorial; torch.utils.checkpoint "
        "(Chen et al. 2016)"
    )

    @property
    def queries(self) -> int:
        """3 by convention: the backward pass does the work of two; checkpointing evaluates once more."""
        return 4 if self.checkpoint else 3

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; `seed` is not used, nothing is drawn."""
        if self.checkpoint and conditions.execution != "eager":
            raise UsageError("backprop:checkpoint=true runs eagerly: leave --exec out.")
        call = Checkpointed(model, self.segments) if self.checkpoint else model
        step = FusedStep if self.update == "fused" else InBackwardStep
        return step(list(trainable(model).values()), lambda x, y: loss(call(x), y), conditions)


class _BackpropStep(Step):
    """The forward pass, and what the estimate is."""

    def __init__(self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions) -> None:
        """`evaluate` gives the loss of a batch's input and target."""
        self.parameters = parameters
        self.evaluate = compiled(evaluate, conditions)

    def _forward(self, batch: Batch) -> None:
        self.recorded = self.evaluate(*batch)
        self.value = self.recorded.detach()

    def _backward(self) -> None:
        self.recorded.backward()
        del self.recorded

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The gradient itself."""
        return list(gradient)


class FusedStep(_BackpropStep):
    """Backward pass, then one fused update of all parameters; gradients are fresh, never zeroed."""

    def __init__(self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions) -> None:
        super().__init__(parameters, evaluate, conditions)
        self.own = self.optimizer = make_optimizer(conditions, self.parameters)

    def _forward(self, batch: Batch) -> None:
        self.own.zero_grad(set_to_none=True)
        super()._forward(batch)

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Forward pass, backward pass, update."""
        return {
            "forward": lambda: self._forward(batch),
            "backward": self._backward,
            "update": lambda: optimize(self.own, learning_rate),
        }


class InBackwardStep(_BackpropStep):
    """Updates a parameter the moment its gradient is accumulated, so that few gradients live at once."""

    def __init__(self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions) -> None:
        super().__init__(parameters, evaluate, conditions)
        if conditions.optimizer != PLAIN_SGD:
            raise UsageError("backprop:update=in-backward updates by plain SGD: leave --optimizer out.")
        self.learning_rate = 0.0
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._update)

    @torch.no_grad()
    def _update(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.add_(parameter.grad, alpha=-self.learning_rate)
        parameter.grad = None

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Forward pass, then a backward pass that updates as it goes."""
        self.learning_rate = learning_rate
        return {"forward": lambda: self._forward(batch), "backward and update": self._backward}


method = Backprop
