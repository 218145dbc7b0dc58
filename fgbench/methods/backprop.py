"""Backpropagation, as strong as PyTorch has it: the baseline of every ratio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Loss, Method, Step, trainable
from fgbench.options import option


@dataclass(frozen=True)
class Backprop(Method):
    """Reverse-mode gradient and SGD."""

    update: str = option(
        "fused",
        "fused: SGD's fused kernel after the backward pass; in-backward: each parameter as soon as "
        "its gradient is there, which is then freed",
        choices=("fused", "in-backward"),
    )

    summary: ClassVar[str] = "reverse-mode gradient, SGD"
    source: ClassVar[str] = "torch.optim.SGD(fused=True); PyTorch's optimizer-in-backward tutorial"

    def prepare(self, model: nn.Module, loss: Loss, seed: int) -> Step:
        """Bind to a model; `seed` is not used, nothing is drawn."""
        return (FusedStep if self.update == "fused" else InBackwardStep)(model, loss)


class FusedStep(Step):
    """Backward pass, then one fused update of all parameters; gradients are fresh, never zeroed."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.parameters = list(trainable(model).values())
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.0, fused=True)

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Forward pass, backward pass, update."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(self.model(batch[0]), batch[1])
        value.backward()
        self.optimizer.step()
        return value.detach()

    def expected(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """The gradient itself."""
        return list(gradient)


class InBackwardStep(Step):
    """Updates a parameter the moment its gradient is accumulated, so that few gradients live at once."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.parameters = list(trainable(model).values())
        self.learning_rate = 0.0
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._update)

    @torch.no_grad()
    def _update(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.add_(parameter.grad, alpha=-self.learning_rate)
        parameter.grad = None

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Forward pass, then a backward pass that updates as it goes."""
        self.learning_rate = learning_rate
        value = self.loss(self.model(batch[0]), batch[1])
        value.backward()
        return value.detach()

    def expected(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """The gradient itself."""
        return list(gradient)


method = Backprop
