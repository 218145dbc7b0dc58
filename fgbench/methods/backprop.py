"""Backpropagation, as strong as PyTorch has it: the baseline of every ratio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.measurement.quality import Slope, Theory
from fgbench.methods import BEST, PLAIN, Batch, Conditions, Loss, Method, Part, Step, trainable
from fgbench.methods.steps.checkpointing import Checkpointed
from fgbench.methods.steps.compiling import compiled
from fgbench.methods.steps.micro_batches import (
    accumulate_option,
    counts,
    micro_batches,
    refuse_batch_statistics,
)
from fgbench.methods.steps.optimizer import PLAIN_SGD, EachItsOwn, has_kernel, make_optimizer, optimize
from fgbench.methods.steps.theory import EXACT
from fgbench.specs.options import option

FUSED, FOREACH, DIRECT, IN_BACKWARD = "fused", "foreach", "direct", "in-backward"


@dataclass(frozen=True)
class Backprop(Method):
    """Reverse-mode gradient and an optimiser."""

    update: str = option(
        BEST,
        "fused: the optimiser's fused kernel after the backward pass, where it has one; foreach: its kernels "
        "over many tensors; direct: plain SGD by one addition of all gradients; in-backward: each parameter "
        "as soon as its gradient is there, which is then freed; best: the one that a run timed beforehand "
        "and found fastest, fused where nothing was timed",
        choices=(BEST, FUSED, FOREACH, DIRECT, IN_BACKWARD),
    )
    checkpoint: bool = option(
        False, "activation checkpointing: keep segments' inputs alone, compute the rest again going back"
    )
    segments: str = option(
        "layer",
        "of checkpointing: layer, one for each layer with parameters; sqrt, √depth of them",
        choices=("layer", "sqrt"),
    )

    accumulate: int = accumulate_option()

    summary: ClassVar[str] = "reverse-mode gradient, the optimiser's own update"
    source: ClassVar[str] = (
        "torch.optim, fused and foreach; PyTorch's optimizer-in-backward tutorial; torch.utils.checkpoint "
        "(Chen et al. 2016)"
    )
    costs: ClassVar[str] = (
        "3 products a layer: the value, the gradient of its inputs, that of its weights; 4 with checkpoint"
    )
    worth: ClassVar[str] = "the gradient: cosine 1, variance × 1"

    @property
    def queries(self) -> int:
        """3 by convention: the backward pass does the work of two; checkpointing evaluates once more."""
        return 4 if self.checkpoint else 3

    def theory(self, slopes: Sequence[Slope]) -> Theory:
        """It is the gradient."""
        return EXACT

    def updates(self, conditions: Conditions) -> tuple[str, ...]:
        """All that the optimiser has; none where one is fixed."""
        if self.update != BEST:
            return ()
        kernels = tuple(name for name in (FUSED, FOREACH) if has_kernel(conditions.optimizer, name))
        return (*kernels, *([DIRECT] if conditions.optimizer == PLAIN_SGD else ()), IN_BACKWARD)

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """Updates, checkpoints and micro-batches, as far as they are open.

        No micro-batches under an update in the backward pass: gradients live through all of them there too.
        """
        checkpoints = [(True, s) for s in ("layer", "sqrt")] if conditions.execution == "eager" else []
        outside = DIRECT if conditions.optimizer == PLAIN_SGD else FUSED
        for update in (outside, IN_BACKWARD) if self.update == BEST else (self.update,):
            for checkpoint, segments in [(False, "layer"), *checkpoints]:
                if self.checkpoint and (checkpoint, segments) != (True, self.segments):
                    continue
                for count in counts(samples) if self.accumulate == 1 else (self.accumulate,):
                    if count == self.accumulate or update != IN_BACKWARD:
                        yield Backprop(update, checkpoint, segments, count)

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; `seed` is not used, nothing is drawn."""
        if self.checkpoint and conditions.execution != "eager":
            raise UsageError("backprop:checkpoint=true runs eagerly: leave --exec out.")
        refuse_batch_statistics(model, self.accumulate)
        call = Checkpointed(model, self.segments) if self.checkpoint else model
        update = (conditions.update or FUSED) if self.update == BEST else self.update
        steps: dict[str, Callable[..., Step]] = {
            FUSED: OptimizerStep,
            FOREACH: partial(OptimizerStep, kernel=FOREACH),
            DIRECT: DirectStep,
            IN_BACKWARD: InBackwardStep,
        }
        parameters = list(trainable(model).values())
        return steps[update](parameters, lambda x, y: loss(call(x), y), conditions, self.accumulate)


class _BackpropStep(Step):
    """The passes forward and back, and what the estimate is."""

    def __init__(
        self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions, accumulate: int = 1
    ) -> None:
        """`evaluate` gives the loss of a batch's input and target, `accumulate` is of micro-batches."""
        self.parameters, self.accumulate = parameters, accumulate
        self.evaluate = compiled(evaluate, conditions)
        self.complete = True  # once this pass is through, gradients are those of the whole batch

    def _passes(self, batch: Batch) -> dict[str, Part]:
        """What leaves a gradient with each parameter."""
        if self.accumulate > 1:
            return {"forward and backward": lambda: self._by_micro_batches(batch)}
        return {"forward": lambda: self._forward(batch), "backward": self._backward}

    def _forward(self, batch: Batch) -> None:
        self._begin()
        self.recorded = self.evaluate(*batch)
        self.value = self.recorded.detach()

    def _begin(self) -> None:
        """Before the first pass."""

    def _backward(self) -> None:
        self.recorded.backward()
        del self.recorded

    def _by_micro_batches(self, batch: Batch) -> None:
        """Their losses weigh as many samples as each has: together they are the mean over the batch."""
        self._begin()
        value = None
        for (x, y), share, last in micro_batches(batch, self.accumulate):
            self.complete = last
            own = self.evaluate(x, y) * share
            own.backward()
            value = own.detach() if value is None else value + own.detach()
        assert value is not None
        self.value = value

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The gradient itself."""
        return list(gradient)


class OptimizerStep(_BackpropStep):
    """Backward pass, then the optimiser's step over all parameters; gradients are fresh, never zeroed."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        evaluate: Loss,
        conditions: Conditions,
        accumulate: int = 1,
        kernel: str = FUSED,
    ) -> None:
        super().__init__(parameters, evaluate, conditions, accumulate)
        self.own = self.optimizer = make_optimizer(conditions, self.parameters, kernel)

    def _begin(self) -> None:
        self.own.zero_grad(set_to_none=True)

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Forward pass, backward pass, update."""
        return {**self._passes(batch), "update": lambda: optimize(self.own, learning_rate)}


class DirectStep(_BackpropStep):
    """Backward pass, then one addition of all gradients to all parameters, without an optimiser."""

    def __init__(
        self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions, accumulate: int = 1
    ) -> None:
        super().__init__(parameters, evaluate, conditions, accumulate)
        if conditions.optimizer != PLAIN_SGD:
            raise UsageError("backprop:update=direct updates by plain SGD: leave --optimizer out.")

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Forward pass, backward pass, update."""
        return {**self._passes(batch), "update": lambda: self._update(learning_rate)}

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        torch._foreach_add_([p for p, _ in gradients], [g for _, g in gradients], alpha=-learning_rate)
        for parameter, _ in gradients:
            parameter.grad = None


class InBackwardStep(_BackpropStep):
    """Updates a parameter the moment its gradient is accumulated, so that few gradients live at once.

    Plain SGD adds the gradient itself; any other optimiser is one of its own for each parameter, as in
    PyTorch's recipe, which is the same update: none of those that are taken looks at two parameters.
    With micro-batches gradients live until the last of them, which is the one that updates.
    """

    def __init__(
        self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions, accumulate: int = 1
    ) -> None:
        super().__init__(parameters, evaluate, conditions, accumulate)
        self.learning_rate = 0.0
        if conditions.optimizer == PLAIN_SGD:
            update = self._add
        else:
            self.own = self.optimizer = EachItsOwn(conditions, self.parameters)
            update = self._optimize
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(update)

    @torch.no_grad()
    def _add(self, parameter: Tensor) -> None:
        if not self.complete:
            return
        assert parameter.grad is not None
        parameter.add_(parameter.grad, alpha=-self.learning_rate)
        parameter.grad = None

    def _optimize(self, parameter: Tensor) -> None:
        if not self.complete:
            return
        optimize(self.own.of(parameter), self.learning_rate)
        parameter.grad = None

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Forward pass, then a backward pass that updates as it goes."""
        self.learning_rate = learning_rate
        if self.accumulate > 1:
            return {"step": lambda: self._by_micro_batches(batch)}
        return {"forward": lambda: self._forward(batch), "backward and update": self._backward}


method = Backprop
