"""Methods: how a training step gets its update.

A method is a frozen dataclass of options with one function, `prepare`, that binds it to a model, a
loss and a seed. What it gives, a `Step`, is called once a batch, and that call is what is timed: it
holds the method's own work and nothing else, and never waits for the device.
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
    """What is the same for every method of a matched group.

    Attributes:
        execution: one of `EXECUTIONS`; `compile` is torch.compile, `cudagraph` a captured step.
        optimizer: spec of a torch.optim optimiser, `sgd` or as in `sgd:momentum=0.9`.
        update: which of its updates a method takes that leaves it open; empty for its own default.
        variant: the spec of the method's variant that a memory budget left it; empty where there is none.
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
        """Whether a whole step is one CUDA graph."""
        return self.execution == "cudagraph"


BEST = "best"  # what is fastest, found by timing all that there is
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
    """By what share the estimate is off by design, as finite differences are."""

    cycle: int = 1
    """After how many steps what they do comes around again: a mean of whole cycles is fair to each kind."""

    left_alone: frozenset[int] = frozenset()
    """Places of the parameters that the last step left as they are, their optimiser's state too."""

    measured: Tensor | None = None
    """The directional derivatives of the last step before any clipping, on the device; None without any."""

    optimizer: torch.optim.Optimizer | EachItsOwn | None = None
    """The optimiser that it steps with, where there is one: its state is memory that is kept."""

    def get_ready(self, batch: Batch) -> None:  # noqa: B027
        """Make and draw what is made once, of the shapes of a first batch: matrices, networks of its own.

        The first call of the step does so where nobody has; the model, its buffers and PyTorch's own
        random numbers stay as they are.
        """

    @abstractmethod
    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """What one step does, by name and in order: draw, forward, backward, update.

        Run one after the other they are the step; the forward part sets `value`.
        """

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Take one step in place; gives the batch's loss before it, shape [], still on the device."""
        for part in self.parts(batch, learning_rate).values():
            part()
        return self.value

    def each_kind(self) -> Iterator[None]:
        """Have the next step be of a kind that may need the most memory, another in each turn of the loop."""
        yield

    @abstractmethod
    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The estimate that the last step must have used, were `gradient` the true one.

        The oracle against which a step is checked before it is timed: for backprop the gradient
        itself, for a forward gradient (∇f·v) v with the v of the last step.

        Args:
            gradient: by reverse mode, at the weights before the step.
            model: with those weights.
            batch: of the step.
        """

    def notes(self) -> list[str]:
        """What the reader of a result should know of how the step ran: what fell back."""
        return []

    def generators(self) -> list[torch.Generator]:
        """What its draws depend on besides the device's own generator: a CUDA graph and a checkpoint
        have to know.
        """
        return []

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides model, optimiser and generators, as tensors and plain
        values: networks of its own that it trains.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of a step of the same method, this one's earlier one too; its generators
        are set apart from it.
        """
        assert not state, "it has none to go on from"


class Method(ABC):
    """A way of training; its fields are the options of `--method name:option=value`."""

    summary: ClassVar[str]
    source: ClassVar[str]
    """The paper or the documentation that it comes from."""

    costs: ClassVar[str] = ""
    """What a step takes, in products of a layer's inputs with its weights, of which the base has one each."""

    worth: ClassVar[str] = ""
    """What is known of its estimates beforehand: ‖g‖²/‖∇f‖² and the cosine, of n numbers."""

    @property
    def unbiased(self) -> bool:
        """Whether the mean of its estimates is the gradient."""
        return True

    @property
    @abstractmethod
    def queries(self) -> int:
        """Evaluations of the model that a step counts as, for budgets: the base is 1."""

    def theory(self, slopes: Sequence[Slope]) -> Theory:
        """What is known of its estimates' length and angle beforehand; nothing where no formula is.

        Args:
            slopes: of the parameters that it trains.
        """
        from fgbench.measurement.quality import Theory

        return Theory()

    def updates(self, conditions: Conditions) -> tuple[str, ...]:
        """The updates among which the fastest is to be found, and prepared with as `conditions.update`."""
        return ()

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """The ways to take the very same step for other time and memory, among which a budget chooses.

        Args:
            conditions: of the group.
            samples: of a batch.
        """
        yield self

    @abstractmethod
    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model, which the step then trains in place.

        Args:
            model: in training mode, on its device, with its initial weights.
            loss: (output, target) → scalar.
            seed: of every random number that the step draws itself.
            conditions: shared by all methods of the group.

        Raises:
            UsageError: the method does not go with the conditions.
        """


def find(spec: str) -> Method:
    """The method that `name:option=value,…` names.

    Raises:
        UsageError: no such method or option.
    """
    name, options = split_spec(spec)
    return parse_options(registry.find("methods", name), name, options)


def chosen(spec: str, conditions: Conditions) -> Method:
    """The method of a spec, or the variant of it that was chosen.

    Raises:
        UsageError: as `find`.
    """
    return find(conditions.variant or spec)


def prepare(method: Method, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
    """A method's step in the execution mode of the conditions; arguments as of `Method.prepare`.

    Raises:
        UsageError: the method does not go with the conditions.
    """
    own = find(conditions.variant) if conditions.variant else method
    step = own.prepare(model, loss, seed, conditions)
    if not conditions.captured:
        return step
    from fgbench.methods.steps.cudagraph import CapturedStep

    return CapturedStep(step, model)


def check_execution(name: str, execution: str, device: str, more: Sequence[str] = ()) -> None:
    """Refuse an execution mode that is none, or that the device does not have.

    Args:
        name: of the option, for the message.
        execution: the mode.
        device: as torch names it.
        more: what the option takes besides the modes.

    Raises:
        UsageError: as said.
    """
    if execution not in EXECUTIONS:
        raise UsageError(f"{name} {execution}: must be one of {', '.join((*EXECUTIONS, *more))}.")
    if execution == "cudagraph" and not device.startswith("cuda"):
        raise UsageError(f"{name} cudagraph: needs a GPU, and this is {device}; eager or compile run on it.")


def canonical_specs(specs: Sequence[str]) -> tuple[str, ...]:
    """The specs in their shortest form, options at their defaults left out.

    Raises:
        UsageError: no such method or option, or the same method twice.
    """
    short = tuple(canonical(split_spec(spec)[0], find(spec)) for spec in specs)
    twice = {s for s in short if short.count(s) > 1}
    if twice:
        raise UsageError(f"--method {twice.pop()} is given twice.")
    return short


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a method trains by name; frozen ones left out, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
