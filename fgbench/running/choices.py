"""What was chosen for each method before it is timed or trained: execution mode, optimiser, update."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fgbench.methods import Conditions
from fgbench.plan import Group


@dataclass(frozen=True)
class Choices:
    """What methods have of their own; a method that is not there has what its group has.

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
        """What a method of the group is prepared with."""
        plain = group.conditions
        optimizer = self.optimizers.get(method, plain.optimizer)
        return replace(
            plain,
            execution=self.executions.get(method, plain.execution),
            optimizer=optimizer,
            update=self.update_of(method, optimizer) or "",
            variant=self.variants.get(method, ""),
        )

    def update_of(self, method: str, optimizer: str) -> str | None:
        """The update that was found fastest; None where the method leaves none open."""
        return self.updates.get(method, {}).get(optimizer)

    def with_variant(self, method: str, variant: str) -> Choices:
        """The same, but for a method's variant."""
        return replace(self, variants={**self.variants, method: variant})

    def with_optimizer(self, method: str, optimizer: str) -> Choices:
        """The same, but for a method's optimiser."""
        return replace(self, optimizers={**self.optimizers, method: optimizer})
