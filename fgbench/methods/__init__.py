"""Methods: how a training step gets its update.

A method is a frozen dataclass of options with a function `prepare`, which binds it to a model, a loss and a
seed, and gives a `Step`. The step is called once for each batch, and that call is what is timed: it does
the method's own work and nothing else, and never waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fgbench.errors import UsageError
from fgbench.specs import registry
from fgbench.specs.options import canonical, parse_options, split_spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fgbench.measurement.quality import Slope, Theory
    from fgbench.methods.steps.optimizer import EachItsOwn

Batch = tuple["Tensor", "Tensor"]
Loss = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Conditions:
    """The conditions under which the methods of a matched group are prepared.

    Attributes:
        execution: one of `EXECUTIONS`; `compile` is torch.compile, `cudagraph` captures a step.
        optimizer: spec of a torch.optim optimiser, as in `sgd` or `sgd:momentum=0.9`.
        update: the update to take, for a method that leaves this open; empty for the method's default.
        variant: spec of the method's variant that was chosen under a memory budget; empty without a budget.
    """

    execution: str = "eager"
    optimizer: str = "sgd"
    update: str = ""
    variant: str = ""

    @property
    def compiled(self) -> bool:
        """Whether it goes through torch.compile."""
        return self.execution == "compile"

    @property
    def captured(self) -> bool:
        """Whether a whole step is captured in a CUDA graph."""
        return self.execution == "cudagraph"


BEST = "best"  # stands for the fastest choice, which a run finds by timing them all
EXECUTIONS = ("eager", "compile", "cudagraph")
PLAIN = Conditions()
Part = Callable[[], object]


class Step(ABC):
    """One training step: under plain SGD parameters ← parameters − learning rate · estimate."""

    parameters: Sequence[Tensor]
    """The parameters that the step trains, in the order of `model.parameters()`."""

    value: Tensor
    """The loss of the last batch before its update, shape [], on the device, outside autograd."""

    tolerance: ClassVar[float] = 0.0
    """The relative error that the estimate has by design, as finite differences do."""

    cycle: int = 1
    """For steps that differ in kind, after how many they repeat; means are taken over whole cycles."""

    masks_of_its_own: bool = False
    """Whether its passes draw dropout's masks in another order than a pass of the model does; it is then
    checked without dropout."""

    left_alone: frozenset[int] = frozenset()
    """Positions of the parameters that the last step did not touch, nor their optimiser's state."""

    measured: Tensor | None = None
    """Directional derivatives of the last step before any clipping, on the device; None if it has none."""

    optimizer: torch.optim.Optimizer | EachItsOwn | None = None
    """The optimiser that it steps with, if any; its state counts as memory that is kept."""

    def get_ready(self, batch: Batch) -> None:  # noqa: B027
        """Make what is made only once and depends on the shapes of a batch, such as feedback matrices.

        The first call of the step does it if it has not been done. The model, its buffers and PyTorch's own
        random numbers stay as they are.
        """

    @abstractmethod
    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The parts of one step by name, in order: draw, forward, backward, update.

        Run one after the other they make the step; the forward part sets `value`.
        """

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Take one step in place; gives the batch's loss before it, shape [], on the device."""
        for part in self.parts(batch, learning_rate).values():
            part()
        return self.value

    def each_kind(self) -> Iterator[None]:
        """Iterate over the kinds of steps that may need the most memory; the next step is of that kind."""
        yield

    @abstractmethod
    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The estimate that the last step must have used, if `gradient` is the true gradient.

        A step is checked against it before it is timed. It is the gradient itself for backprop, and
        (∇f·v) v for a forward gradient, with the v of the last step.

        Args:
            gradient: the gradient by reverse mode, at the weights before the step.
            model: a model with those weights.
            batch: the batch of the step.
        """

    def notes(self) -> list[str]:
        """What a reader should know about how the step ran, such as functions that had no rule."""
        return []

    def generators(self) -> list[torch.Generator]:
        """The generators that it draws from besides the device's own.

        CUDA graphs register them, and checkpoints store them.
        """
        return []

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides model, optimiser and generators.

        That may be networks of its own that it trains; it is given as tensors and plain values.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, for this step or another one of the same method.

        The generators are restored separately.
        """
        assert not state, "this step has no state of its own"


class Method(ABC):
    """A way of training; its fields are the options of `--method name:option=value`."""

    summary: ClassVar[str]
    source: ClassVar[str]
    """The paper or documentation that it comes from."""

    costs: ClassVar[str] = ""
    """What a step costs, in products of a layer's inputs with its weights; the base has one a layer."""

    worth: ClassVar[str] = ""
    """What is known in theory of its estimates, for n parameters: ‖g‖²/‖∇f‖² and the cosine."""

    @property
    def unbiased(self) -> bool:
        """Whether the mean of its estimates is the gradient."""
        return True

    @property
    @abstractmethod
    def queries(self) -> int:
        """How many evaluations of the model a step counts as in a budget; the base counts as 1."""

    def theory(self, slopes: Sequence[Slope]) -> Theory:
        """The expected length and angle of its estimates; an empty `Theory` where there is no formula.

        Args:
            slopes: the shape and the share of ‖∇f‖² of each parameter that it trains.
        """
        from fgbench.measurement.quality import Theory

        return Theory()

    def refuses(self, execution: str) -> str:
        """Why its steps cannot run in an execution mode, as a line for the user; empty if they can."""
        return ""

    def updates(self, conditions: Conditions) -> tuple[str, ...]:
        """The updates to choose the fastest from, as values of `conditions.update`; none if it is fixed."""
        return ()

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """Variants that take the same step with other time and memory; a memory budget chooses among them.

        Args:
            conditions: the group's.
            samples: how many samples a batch has.
        """
        yield self

    @abstractmethod
    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model, which the step then trains in place.

        Args:
            model: in training mode, on its device, with its initial weights.
            loss: (output, target) → scalar.
            seed: decides every random number that the step draws itself.
            conditions: the group's.

        Raises:
            UsageError: the method cannot work with this model.
        """


def find(spec: str) -> Method:
    """The method for a spec `name:option=value,…`.

    Raises:
        UsageError: there is no such method or option.
    """
    name, options = split_spec(spec)
    return parse_options(registry.find("methods", name), name, options)


def chosen(spec: str, conditions: Conditions) -> Method:
    """The method for a spec, or the variant of it that was chosen under a memory budget.

    Raises:
        UsageError: as `find`.
    """
    return find(conditions.variant or spec)


def prepare(method: Method, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
    """A method's step in the execution mode of the conditions; arguments as for `Method.prepare`.

    Raises:
        UsageError: the method cannot work under these conditions.
    """
    own = find(conditions.variant) if conditions.variant else method
    if why := own.refuses(conditions.execution):
        raise UsageError(why)
    step = own.prepare(model, loss, seed, conditions)
    if not conditions.captured:
        return step
    from fgbench.methods.steps.cudagraph import CapturedStep

    return CapturedStep(step, model)


def eager_alone(name: str, execution: str) -> str:
    """What a method `refuses` whose steps run eagerly and in no other mode."""
    return "" if execution == PLAIN.execution else f"{name} runs eagerly: leave --exec out."


def check_execution(name: str, execution: str, device: str, more: Sequence[str] = ()) -> None:
    """Refuse an execution mode that is unknown, or that the device does not have.

    Args:
        name: the option's name, for the message.
        execution: the mode.
        device: torch's name of the device.
        more: other values that the option takes besides the modes.

    Raises:
        UsageError: the mode is refused.
    """
    if execution not in EXECUTIONS:
        raise UsageError(f"{name} {execution}: must be one of {', '.join((*EXECUTIONS, *more))}.")
    if execution == "cudagraph" and not device.startswith("cuda"):
        raise UsageError(f"{name} cudagraph: needs a GPU, and this is {device}; eager or compile run on it.")


def canonical_specs(specs: Sequence[str]) -> tuple[str, ...]:
    """The specs in their shortest form, without options that are at their defaults.

    Raises:
        UsageError: there is no such method or option, or a method is given twice.
    """
    short = tuple(canonical(split_spec(spec)[0], find(spec)) for spec in specs)
    twice = {s for s in short if short.count(s) > 1}
    if twice:
        raise UsageError(f"--method {twice.pop()} is given twice.")
    return short


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a method trains, by name; without frozen ones, and tied ones only once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
