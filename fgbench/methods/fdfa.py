"""Forward direct feedback alignment: feedback matrices learnt from the output's derivatives along noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fgbench.errors import UsageError
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Part, Step, eager_alone
from fgbench.methods.dfa import DfaStep, rows_of
from fgbench.methods.steps.pieces import cut
from fgbench.pushforward.context import draws_again
from fgbench.pushforward.structures import Fill
from fgbench.specs.options import option


@dataclass(frozen=True)
class Fdfa(Method):
    """Direct feedback alignment whose matrices follow the output's mean derivative by each layer.

    The default momentum is our own choice, as the authors' code updates the matrices by Adam.
    """

    momentum: float = option(
        0.99,
        "the share of a feedback matrix that a step keeps, below 1; the rest comes from the new estimate",
        minimum=0,
    )
    entries: str = option(
        "gaussian",
        "entries of the noise on layers' outputs. gaussian: N(0, 1), as published; rademacher: ±1",
        choices=("gaussian", "rademacher"),
    )

    summary: ClassVar[str] = "direct feedback alignment with matrices learnt by forward gradients"
    source: ClassVar[str] = "Bacho & Chu 2022 (arXiv 2212.07282)"
    costs: ClassVar[str] = "2 products a layer, and a forward pass with a tangent"
    worth: ClassVar[str] = "no formula: biased, less so as the feedback is learnt"

    def __post_init__(self) -> None:
        """Refuse a momentum with which nothing would be learnt."""
        if self.momentum >= 1:
            raise UsageError(f"fdfa:momentum={self.momentum}: must be below 1.")

    @property
    def unbiased(self) -> bool:
        """Biased: the matrices are means over samples and over past weights."""
        return False

    @property
    def queries(self) -> int:
        """3: direct feedback alignment's 2, and the derivative along the noise."""
        return 3

    def refuses(self, execution: str) -> str:
        """All modes but eager."""
        return eager_alone("fdfa", execution)

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; the noise depends on `seed` alone.

        Raises:
            UsageError: `cut` refuses the model.
        """
        return FdfaStep(model, loss, seed, self, conditions)


class FdfaStep(DfaStep):
    """Direct feedback alignment with noise as a tangent, in forward mode; the values have no noise.

    Noise u on a hidden piece's output, [batch, features], independent for each sample and piece, gives the
    model's output a tangent d, [batch, classes]. The mean of d ⊗ u over the batch estimates the mean of
    ∂output/∂u, and B ← momentum · B + (1 − momentum) · estimate, beginning at zero. The authors feed back by
    B as it was before a step's own estimate; here it is B after it, so that the first step can be checked.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: Fdfa, conditions: Conditions
    ) -> None:
        super().__init__("fdfa", model, loss, seed, conditions)
        self.momentum = options.momentum
        self.fill = Fill(options.entries, self.generator)

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: draw noise, forward pass with it, feedback to all layers, update."""
        return {"draw": lambda: self._draw(batch), **super().parts(batch, learning_rate)}

    def _begun(self, matrix: Tensor) -> Tensor:
        """An initial feedback matrix, which is zero."""
        return matrix.zero_()

    def _draw(self, batch: Batch) -> None:
        self.get_ready(batch)
        assert self.shapes is not None
        like = self.parameters[0]
        self.noise = [self.fill(like.new_empty(len(batch[0]), *shape)) for shape in self.shapes]

    def _run(self, index: int, x: Tensor) -> Tensor:
        if index == 0:
            return super()._run(index, x)  # there are no tangents before the first noise
        piece, moved = self.pieces[index], self.noise[index - 1]
        if index > 1:
            moved = moved + self.tangent
        with forward_ad.dual_level():
            z = forward_ad.make_dual(piece.start(x), piece.start_tangent(moved))
            output, tangent = forward_ad.unpack_dual(piece.finish(z))
        self.tangent: Tensor = tangent.detach()
        return output

    def _fed_back(self, error: Tensor) -> list[Tensor]:
        self.before = self.feedback
        self.feedback = [
            torch.addmm(
                b,
                rows_of(self.tangent).t(),
                rows_of(u),
                beta=self.momentum,
                alpha=(1 - self.momentum) / len(u),
            )
            for b, u in zip(self.before, self.noise, strict=True)
        ]
        return super()._fed_back(error)

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """As for DFA, with the matrices that torch.func.jvp along the same noise gives."""

        def output_at(size: Tensor) -> Tensor:
            hooks = [
                piece.layer.register_forward_pre_hook(lambda _, inputs, u=u: (inputs[0] + size * u,))
                for piece, u in zip(cut(model, self.name)[1:], self.noise, strict=True)
            ]
            output = model(batch[0])
            for hook in hooks:
                hook.remove()
            return output

        zero = self.parameters[0].new_zeros(())
        with draws_again(batch[0].device):
            _, moved = torch.func.jvp(  # type: ignore[misc]
                output_at, (zero,), (torch.ones_like(zero),)
            )
        estimates = [torch.einsum("bc,bf->cf", rows_of(moved), rows_of(u)) / len(u) for u in self.noise]
        learnt = [
            self.momentum * b + (1 - self.momentum) * estimate.detach()
            for b, estimate in zip(self.before, estimates, strict=True)
        ]
        return self._by_reverse_mode(learnt, model, batch)


method = Fdfa
