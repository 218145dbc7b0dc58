"""Forward gradients by `torch.func.jvp`: (∇f·v) v with one random tangent a step (Baydin et al. 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Loss, Method, Step, trainable
from fgbench.options import option


@dataclass(frozen=True)
class Forward(Method):
    """Forward gradient descent, Algorithm 1 of the paper, with PyTorch's own forward mode."""

    structure: str = option(
        "gaussian",
        "entries of the tangent, independent: gaussian N(0, 1), as published; rademacher ±1, less variance",
        choices=("gaussian", "rademacher"),
    )

    summary: ClassVar[str] = "forward gradient (∇f·v) v by torch.func.jvp, one tangent a step, SGD"
    source: ClassVar[str] = "Baydin et al. 2022, Algorithm 1 (arXiv 2202.08587)"

    def prepare(self, model: nn.Module, loss: Loss, seed: int) -> Step:
        """Bind to a model; the tangents come from `seed` alone."""
        return ForwardStep(model, loss, seed, self.structure)


class ForwardStep(Step):
    """Draw v, one forward pass for f and ∇f·v, update; no reverse mode and no host synchronisation."""

    def __init__(self, model: nn.Module, loss: Loss, seed: int, structure: str) -> None:
        self.model, self.loss, self.structure = model, loss, structure
        by_name = trainable(model)
        self.parameters = list(by_name.values())
        first = self.parameters[0]
        # A tensor each, not views of one: dual numbers take a tangent whose memory is laid out as its
        # primal's and copy any other, which would cost a copy of all parameters in every step.
        self.tangents = {name: torch.empty_like(p, requires_grad=False) for name, p in by_name.items()}
        if structure == "rademacher":
            most = max(p.numel() for p in self.parameters)
            self.words = torch.empty(-(-most // 8), dtype=torch.int64, device=first.device)
        # Aliases outside autograd: dual numbers on them leave no trace on the parameters.
        self.primals = {name: p.detach() for name, p in by_name.items()}
        self.buffers = dict(model.named_buffers())
        self.generator = torch.Generator(first.device).manual_seed(seed)
        self.directional_derivative = torch.zeros((), dtype=first.dtype, device=first.device)

    def draw(self) -> None:
        """Fill the tangents with independent entries of zero mean and unit variance."""
        for tangent in self.tangents.values():
            if self.structure == "gaussian":
                tangent.normal_(generator=self.generator)
            else:
                self._fill_with_signs(tangent)

    def _fill_with_signs(self, tangent: Tensor) -> None:
        # A random bit in each byte: a quarter of the time that a float per entry takes.
        words = self.words[: -(-tangent.numel() // 8)].random_(generator=self.generator)
        bits = words.view(torch.uint8)[: tangent.numel()].bitwise_and_(1)
        tangent.copy_(bits.view(tangent.shape)).mul_(2).sub_(1)

    @torch.no_grad()
    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Draw, one forward pass on dual numbers, update."""
        self.draw()
        value, self.directional_derivative, moved = torch.func.jvp(  # type: ignore[misc]
            lambda parameters: self._loss(parameters, batch), (self.primals,), (self.tangents,), has_aux=True
        )
        for name, statistic in moved.items():
            self.buffers[name].copy_(statistic)
        for primal, tangent in zip(self.primals.values(), self.tangents.values(), strict=True):
            primal.addcmul_(tangent, self.directional_derivative, value=-learning_rate)
        return value

    def _loss(self, parameters: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        # Buffers are copied in and out: batch norm's running statistics would become dual otherwise.
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        output = torch.func.functional_call(self.model, {**parameters, **buffers}, (batch[0],))
        return self.loss(output, batch[1]), buffers

    def expected(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """⟨∇f, v⟩ v with the v of the last step."""
        tangents = list(self.tangents.values())
        derivative = torch.stack([(g * v).sum() for g, v in zip(gradient, tangents, strict=True)]).sum()
        return [derivative * v for v in tangents]


method = Forward
