"""Direct feedback alignment: the output's error reaches every layer through a fixed random matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Part, Step, eager_alone, trainable
from fgbench.methods.steps.pieces import cut
from fgbench.methods.steps.update import Update
from fgbench.pushforward.context import draws_again


@dataclass(frozen=True)
class Dfa(Method):
    """A forward pass and local updates; biased, as the feedback matrices do not depend on the weights."""

    summary: ClassVar[str] = (
        "direct feedback alignment: the output's error reaches each layer through a fixed random matrix"
    )
    source: ClassVar[str] = "Nøkland 2016 (arXiv 1609.01596)"
    costs: ClassVar[str] = "2 products a layer, as there is none for the gradient of its inputs"
    worth: ClassVar[str] = "no formula: biased, and the weights turn towards the feedback as they train"

    @property
    def unbiased(self) -> bool:
        """Biased: only the last layer's estimate is the gradient."""
        return False

    @property
    def queries(self) -> int:
        """2: the forward pass, and backprop's products for the weights without those for the inputs."""
        return 2

    def refuses(self, execution: str) -> str:
        """All modes but eager."""
        return eager_alone("dfa", execution)

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; the feedback matrices depend on `seed` alone.

        Raises:
            UsageError: `cut` refuses the model.
        """
        return DfaStep("dfa", model, loss, seed, conditions)


class DfaStep(Step):
    """A forward pass piece by piece; each piece is recorded by itself, and no derivative leaves it.

    The cotangent of a hidden piece's output h, [batch, *features], is e B, where e = ∂loss/∂output is
    [batch, classes] and B is [classes, features]. The piece's own chain rule turns it into an estimate for
    the parameters, ((e B) ⊙ f′)ᵀ x for h = f(x Wᵀ), as in the paper. Pooling and flattening belong to the
    piece before them. The last piece gets e itself, so that its estimate is the gradient.
    """

    def __init__(self, name: str, model: nn.Module, loss: Loss, seed: int, conditions: Conditions) -> None:
        self.name, self.loss = name, loss
        self.pieces = cut(model, name)
        self.parameters = list(trainable(model).values())
        self.generator = torch.Generator(self.parameters[0].device).manual_seed(seed)
        self.feedback: list[Tensor] = []
        self.shapes: list[torch.Size] | None = None
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: forward pass, feedback to all layers, update."""
        return {
            "forward": lambda: self._forward(batch),
            "backward": self._backward,
            "update": lambda: self.update.by_gradients(self.gradients, learning_rate),
        }

    @torch.no_grad()
    def get_ready(self, batch: Batch) -> None:
        """Find the shapes of a sample at each hidden piece's output, and make the feedback matrices."""
        if self.shapes is not None:
            return
        x, shapes = batch[0], []
        with draws_again(x.device):
            for piece in self.pieces:
                x = piece(x)
                shapes.append(x.shape[1:])
        *self.shapes, output = shapes
        like, classes = self.parameters[0], output.numel()
        self.feedback = self.feedback or [
            self._begun(like.new_empty(classes, shape.numel(), requires_grad=False)) for shape in self.shapes
        ]

    def _forward(self, batch: Batch) -> None:
        self.get_ready(batch)
        x, y = batch
        self.gradients: Sequence[Tensor] = ()  # frees the last step's before new ones are made
        self.outputs: list[Tensor] = []
        for index in range(len(self.pieces)):
            self.outputs.append(self._run(index, x))
            x = self.outputs[-1].detach()
        self.output = x.requires_grad_()
        self.recorded = self.loss(self.output, y)
        self.value = self.recorded.detach()

    def _run(self, index: int, x: Tensor) -> Tensor:
        """The output of a piece, recorded."""
        return self.pieces[index](x)

    def _backward(self) -> None:
        (error,) = torch.autograd.grad(self.recorded, self.output)
        cotangents = [*self._fed_back(error), error]
        self.gradients = torch.autograd.grad(
            self.outputs, self.parameters, cotangents, materialize_grads=True
        )
        del self.outputs, self.output, self.recorded

    def _fed_back(self, error: Tensor) -> list[Tensor]:
        """The cotangents of the hidden pieces' outputs."""
        rows, hidden = rows_of(error), self.outputs[:-1]
        return [(rows @ b).view_as(h) for b, h in zip(self.feedback, hidden, strict=True)]

    def _begun(self, matrix: Tensor) -> Tensor:
        """An initial feedback matrix: uniform with variance 2 / features, as in Bacho and Chu's code."""
        return nn.init.kaiming_uniform_(matrix, generator=self.generator)

    def generators(self) -> list[torch.Generator]:
        """The generator of the feedback matrices."""
        return [self.generator]

    def state(self) -> dict[str, Any]:
        """The feedback matrices, [classes, features] each."""
        return {"feedback": self.feedback}

    def load_state(self, state: dict[str, Any]) -> None:
        """Use these feedback matrices."""
        self.feedback = list(state["feedback"])

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """Reverse mode through the whole model, with the slope at every hidden output replaced by e B."""
        return self._by_reverse_mode(self.feedback, model, batch)

    def _by_reverse_mode(self, feedback: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        errors: list[Tensor] = []

        def replaced(slope: Tensor, b: Tensor) -> Tensor:
            return (rows_of(errors[0]) @ b).view_as(slope)

        def watch(layer: nn.Module, inputs: tuple[Tensor, ...], b: Tensor) -> None:
            inputs[0].register_hook(partial(replaced, b=b))

        for piece, b in zip(cut(model, self.name)[1:], feedback, strict=True):
            piece.layer.register_forward_pre_hook(partial(watch, b=b))
        output = model(batch[0])
        output.register_hook(errors.append)
        value = self.loss(output, batch[1])
        return list(torch.autograd.grad(value, list(trainable(model).values()), materialize_grads=True))


def rows_of(values: Tensor) -> Tensor:
    """Values of any shape [batch, …], a single number a sample too, as rows [batch, features]."""
    return values.reshape(len(values), -1)


method = Dfa
