"""What was chosen for each method before it is timed or trained: execution mode, optimiser, update."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fgbench.methods import BEST, PLAIN, Conditions
from fgbench.plan import Group


@dataclass(frozen=True)
class Choices:
    """What was chosen for single methods; a method without a choice has what its group has.

    Attributes:
        executions: the execution mode, by method; the base may be among them.
        optimizers: the optimiser, by method.
        updates: the way to update, by method and optimiser, where a method leaves it open.
        variants: the variant that fits a memory budget, by method.
    """

    executions: dict[str, str] = field(default_factory=dict)
    optimizers: dict[str, str] = field(default_factory=dict)
    updates: dict[str, dict[str, str]] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)

    def conditions_of(self, group: Group, method: str) -> Conditions:
        """The conditions that a method of the group is prepared with."""
        plain = group.conditions
        optimizer = self.optimizers.get(method, plain.optimizer)
        execution = self.executions.get(method, plain.execution)
        return replace(
            plain,
            # Where the search for the best mode failed, there is none.
            execution=PLAIN.execution if execution == BEST else execution,
            optimizer=optimizer,
            update=self.update_of(method, optimizer) or "",
            variant=self.variants.get(method, ""),
        )

    def update_of(self, method: str, optimizer: str) -> str | None:
        """The update that was found fastest; None where the method does not leave it open."""
        return self.updates.get(method, {}).get(optimizer)

    def with_variant(self, method: str, variant: str) -> Choices:
        """The same choices, with this variant for the method."""
        return replace(self, variants={**self.variants, method: variant})

    def with_optimizer(self, method: str, optimizer: str) -> Choices:
        """The same choices, with this optimiser for the method."""
        return replace(self, optimizers={**self.optimizers, method: optimizer})
