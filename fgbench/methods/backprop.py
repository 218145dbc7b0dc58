"""Backpropagation with the fastest updates that PyTorch has: the baseline of every ratio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.measurement.quality import Slope, Theory
from fgbench.methods import BEST, PLAIN, Batch, Conditions, Loss, Method, Part, Step, eager_alone, trainable
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
        "how parameters are updated. fused: by the optimiser's fused kernel after the backward pass, if it "
        "has one; foreach: by its kernels over many tensors; direct: plain SGD by one addition of all "
        "gradients; in-backward: each parameter as soon as its gradient is there, which is then freed; best: "
        "the one that a run has timed to be fastest, or fused where nothing was timed",
        choices=(BEST, FUSED, FOREACH, DIRECT, IN_BACKWARD),
    )
    checkpoint: bool = option(
        False,
        "activation checkpointing: keep only the inputs of segments, compute the rest again in the backward "
        "pass",
    )
    segments: str = option(
        "layer",
        "the segments of checkpointing. layer: one for each layer with parameters; sqrt: √depth segments",
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

    def __post_init__(self) -> None:
        """Refuse segments of a checkpointing that there is not."""
        if self.segments != "layer" and not self.checkpoint:
            raise UsageError(f"backprop: segments={self.segments} needs checkpoint=true.")

    @property
    def queries(self) -> int:
        """3, as a backward pass does the work of two evaluations; 4 with checkpointing."""
        return 4 if self.checkpoint else 3

    def theory(self, slopes: Sequence[Slope]) -> Theory:
        """The estimate is the gradient."""
        return EXACT

    def updates(self, conditions: Conditions) -> tuple[str, ...]:
        """All updates that the optimiser has; none where the option fixes one."""
        if self.update != BEST:
            return ()
        kernels = tuple(name for name in (FUSED, FOREACH) if has_kernel(conditions.optimizer, name))
        return (*kernels, *([DIRECT] if conditions.optimizer == PLAIN_SGD else ()), IN_BACKWARD)

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """All combinations of updates, checkpoints and micro-batches that the options leave open.

        Micro-batches are not combined with an update in the backward pass, as gradients would live through
        all of them anyway.
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

    def refuses(self, execution: str) -> str:
        """All modes but eager, with checkpoints."""
        return eager_alone("backprop:checkpoint=true", execution) if self.checkpoint else ""

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; `seed` is not used, as nothing is drawn."""
        refuse_batch_statistics(model, self.accumulate)
        call = Checkpointed(model, self.segments) if self.checkpoint else model
        update = (conditions.update or FUSED) if self.update == BEST else self.update
        steps: dict[str, Callable[..., Step]] = {
            FUSED: OptimizerStep,
            FOREACH: partial(OptimizerStep, kernel=FOREACH),
            DIRECT: DirectStep,
            IN_BACKWARD: InBackwardStep,
        }
        if any(getattr(module, "sparse", False) for module in model.modules()):
            steps[FUSED] = steps[FOREACH]  # fused kernels take no sparse gradients
        parameters = list(trainable(model).values())
        return steps[update](parameters, lambda x, y: loss(call(x), y), conditions, self.accumulate)


class _BackpropStep(Step):
    """Forward and backward pass; subclasses add the update."""

    def __init__(
        self, parameters: Sequence[Tensor], evaluate: Loss, conditions: Conditions, accumulate: int = 1
    ) -> None:
        """`evaluate` gives the loss of a batch's input and target; `accumulate` counts micro-batches."""
        self.parameters, self.accumulate = parameters, accumulate
        self.masks_of_its_own = accumulate > 1
        self.evaluate = compiled(evaluate, conditions)
        self.complete = True  # whether gradients are those of the whole batch after this backward pass

    def _passes(self, batch: Batch) -> dict[str, Part]:
        """The parts of a step that leave a gradient in each parameter."""
        if self.accumulate > 1:
            return {"forward and backward": lambda: self._by_micro_batches(batch)}
        return {"forward": lambda: self._forward(batch), "backward": self._backward}

    def _forward(self, batch: Batch) -> None:
        self._begin()
        self.recorded = self.evaluate(*batch)
        self.value = self.recorded.detach()

    def _begin(self) -> None:
        """For subclasses: what to do before the first pass."""

    def _backward(self) -> None:
        self.recorded.backward()
        del self.recorded

    def _by_micro_batches(self, batch: Batch) -> None:
        """Both passes for each micro-batch, whose loss is weighed by its share of the batch's samples."""
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
    """Backward pass, then the optimiser's step over all parameters; gradients are made anew, never zeroed."""

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
        """The step's parts: forward pass, backward pass, update."""
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
        """The step's parts: forward pass, backward pass, update."""
        return {**self._passes(batch), "update": lambda: self._update(learning_rate)}

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        torch._foreach_add_([p for p, _ in gradients], [g for _, g in gradients], alpha=-learning_rate)
        for parameter, _ in gradients:
            parameter.grad = None


class InBackwardStep(_BackpropStep):
    """Updates a parameter as soon as its gradient is accumulated, so that few gradients live at once.

    Plain SGD adds the gradient itself. Any other optimiser is split into one for each parameter, as in
    PyTorch's recipe; the update is the same, as no optimiser that is accepted combines parameters. With
    micro-batches gradients live until the last one, which updates.
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
        """The step's parts: forward pass, and a backward pass that updates as it goes."""
        self.learning_rate = learning_rate
        if self.accumulate > 1:
            return {"step": lambda: self._by_micro_batches(batch)}
        return {"forward": lambda: self._forward(batch), "backward and update": self._backward}


method = Backprop
