"""The part that block-by-block methods share; the last block always has the true gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions, Loss, Part, Step, trainable
from fgbench.methods.steps.auxiliary import Auxiliaries
from fgbench.methods.steps.blocks import State, activation, check_state, cut, each
from fgbench.methods.steps.call_with import CallWith
from fgbench.methods.steps.update import Update
from fgbench.pushforward.context import draws_again, state_kept
from fgbench.pushforward.engine import Pushforward


@dataclass(frozen=True)
class Block:
    """A block of the model.

    Attributes:
        module: the block's layers.
        trained: its trained parameters, by name.
        pushforward: runs it in forward mode.
    """

    module: nn.Module
    trained: dict[str, nn.Parameter]
    pushforward: Pushforward

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The block's trained parameters."""
        return list(self.trained.values())

    @cached_property
    def call(self) -> CallWith:
        """Calls the block with other parameters."""
        return CallWith(self.module)


class BlockwiseStep(Step):
    """A step of a method that goes block by block: the blocks, their auxiliary networks, and the update.

    Auxiliary networks are trained by the conditions' optimiser at the step's learning rate. They are made at
    the first batch, which shows the shapes of the blocks' outputs.
    """

    name: str
    """The method's name."""

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, blocks: int, aux: str, conditions: Conditions
    ) -> None:
        self.model, self.loss, self.aux, self.conditions = model, loss, aux, conditions
        self.asked = blocks
        self.blocks = self.cut(model)
        self.inner, self.last = self.blocks[:-1], self.blocks[-1]
        self.parameters = list(trainable(model).values())
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer
        self.generator = torch.Generator(self.parameters[0].device).manual_seed(seed)
        self.auxiliaries: dict[str, Auxiliaries] = {}
        self.shapes: list[list[int]] | None = None
        self.gradients: dict[int, Tensor] = {}

    def cut(self, model: nn.Module) -> list[Block]:
        """The blocks of the step's model, or of another with the same layers."""
        modules = cut(model, self.asked, self.name)
        return [Block(m, trainable(m), Pushforward(m, self.loss)) for m in modules]

    @abstractmethod
    def roles(self) -> dict[str, bool]:
        """The sets of auxiliary networks that the method needs, by name, and whether they are trained."""

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: draw, the pass through the blocks, the last block's gradient, update."""
        return {
            "draw": lambda: self._draw(batch),
            "forward": lambda: self._forward(batch),
            "backward": self._backward,
            "update": lambda: self._update(learning_rate),
        }

    def get_ready(self, batch: Batch) -> None:
        """Make the auxiliary networks, once."""
        if self.shapes is None:
            self._make(*self._shapes(batch[0]))
            for auxiliaries in self.auxiliaries.values():
                auxiliaries.initialise(self.generator)

    def _draw(self, batch: Batch) -> None:
        """Do the update of the auxiliary networks that the last step left due."""
        self.get_ready(batch)
        for auxiliaries in self.auxiliaries.values():
            auxiliaries.settle()

    @abstractmethod
    def _forward(self, batch: Batch) -> None:
        """Run all blocks, and set `value` to the loss."""

    def _forward_last(self, x: State, target: Tensor) -> None:
        """Run the last block, recorded for reverse mode within it."""
        with torch.enable_grad():
            self.recorded = self.loss(self.last.module(x), target)
        self.value = self.recorded.detach()

    def _backward(self) -> None:
        """Compute the last block's true gradient."""
        last = self.last
        self._keep(last, torch.autograd.grad(self.recorded, last.parameters, materialize_grads=True))
        del self.recorded

    def _keep(self, block: Block, gradients: Sequence[Tensor]) -> None:
        self.gradients |= {id(p): g for p, g in zip(block.parameters, gradients, strict=True)}

    def _update(self, learning_rate: float) -> None:
        self.update.by_gradients([self.gradients[id(p)] for p in self.parameters], learning_rate)
        self.gradients = {}
        for auxiliaries in self.auxiliaries.values():
            auxiliaries.owe(learning_rate)

    @torch.no_grad()
    def _shapes(self, x: Tensor) -> tuple[list[list[int]], int]:
        """The shapes of the inner blocks' outputs for one sample, and the number of logits."""
        shapes, state = [], x
        with draws_again(x.device), state_kept(self.model):
            for number, block in enumerate(self.blocks, 1):
                state = block.module(state)
                check_state(state, number, self.name)
                shapes.append(list(activation(state).shape[1:]))
        last = shapes[-1]
        return shapes[:-1], last[0] if len(last) == 1 else 0

    def _make(self, shapes: list[list[int]], classes: int) -> None:
        self.shapes, self.classes = shapes, classes
        roles = self.roles() if shapes else {}
        if roles and not classes:
            raise UsageError(
                f"{self.name} gives its auxiliary networks as many outputs as the model has for a sample, "
                "which has to be a row of them: not a single number, and no image."
            )
        for role, trained in roles.items():
            self.auxiliaries[role] = Auxiliaries(
                self.aux,
                shapes,
                classes,
                len(self.blocks),
                self.parameters[0],
                self.loss,
                self.conditions if trained else None,
            )

    def state(self) -> dict[str, Any]:
        """The state of the auxiliary networks; empty before they are made."""
        if self.shapes is None:
            return {}
        networks = {role: a.state() for role, a in self.auxiliaries.items()}
        return {"shapes": self.shapes, "classes": self.classes, "auxiliaries": networks}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; auxiliary networks are made first if there are none yet."""
        if not state:
            return
        if self.shapes is None:
            self._make(state["shapes"], state["classes"])
        for role, own in state["auxiliaries"].items():
            self.auxiliaries[role].load_state(own)

    def generators(self) -> list[torch.Generator]:
        """The generator of the auxiliary networks' weights and of everything else that is drawn."""
        return [self.generator]

    def notes(self) -> list[str]:
        """Says so where the model has fewer blocks than asked for."""
        few = len(self.blocks) < self.asked
        return [f"cut into {len(self.blocks)} blocks, all that the model has"] if few else []

    def by_reverse_mode(self, model: nn.Module, batch: Batch) -> tuple[list[Block], list[State], list[State]]:
        """The blocks of another model, their inputs and their outputs, all in one graph."""
        blocks, inputs, outputs, state = self.cut(model), [], [], batch[0]
        for block in blocks:
            inputs.append(each(torch.Tensor.detach, state))
            state = block.module(each(torch.clone, state))  # it may begin by overwriting what it is given
            outputs.append(state)
        return blocks, inputs, outputs


def by_block(model: nn.Module, blocks: Sequence[Block], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors given in the order of the model's trained parameters, grouped by block."""
    found = {id(p): t for p, t in zip(trainable(model).values(), tensors, strict=True)}
    return [[found[id(p)] for p in block.parameters] for block in blocks]


def in_order(model: nn.Module, blocks: Sequence[Block], tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Tensors given by block, put into the order of the model's trained parameters."""
    parameters = (p for block in blocks for p in block.parameters)
    found = {id(p): t for p, t in zip(parameters, chain(*tensors), strict=True)}
    return [found[id(p)] for p in trainable(model).values()]
