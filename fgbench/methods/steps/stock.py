"""Forward gradients as PyTorch offers them: `torch.func.jvp` on the whole model, one tangent a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fgbench.errors import UsageError
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Part, trainable
from fgbench.methods.steps.call_with import CallWith
from fgbench.methods.steps.compiling import compiled
from fgbench.methods.steps.update import ForwardStep, Update
from fgbench.pushforward.context import writes_frozen
from fgbench.pushforward.fallback import PaddingStill
from fgbench.pushforward.structures import Drawer, Tangents


class StockStep(ForwardStep):
    """Draw v, run one forward pass for f and ∇f·v, update; the host never waits for the device."""

    masks_of_its_own = True  # torch.func.jvp lays out in memory what a plain pass leaves transposed

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, structure: str, conditions: Conditions = PLAIN
    ) -> None:
        self.model, self.call, self.loss = model, CallWith(model), loss
        self.ready = False
        self.pads = any(isinstance(m, nn.Embedding) and m.padding_idx is not None for m in model.modules())
        by_name = trainable(model)
        self.parameters = list(by_name.values())
        # Each tangent is a tensor of its own, not a view: dual numbers copy one whose memory is not laid
        # out like its primal's, which would cost a copy of all parameters in each step.
        self.drawer = Drawer(by_name, 1, structure, seed, together=False)
        # The same memory outside autograd, so that dual numbers leave no trace on the parameters.
        self.primals = {name: p.detach() for name, p in by_name.items()}
        self.buffers = dict(model.named_buffers())
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer
        self.jvp = compiled(self._jvp, conditions)

    def get_ready(self, batch: Batch) -> None:
        """Refuse a model that `torch.func.jvp` cannot run, as it may end the process.

        Raises:
            UsageError: the model's forward writes into frozen parameters.
        """
        if not self.ready and writes_frozen(self.model, batch[0]):
            raise UsageError(
                "engine=stock is torch.func.jvp, which cannot run a forward that writes into frozen "
                "parameters: leave engine=stock out."
            )
        self.ready = True

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """As of any forward gradient, of a model that can be run."""
        self.get_ready(batch)
        return super().parts(batch, learning_rate)

    def draw(self) -> None:
        """Draw the tangent of this step."""
        self.tangents: Tangents = self.drawer.draw()

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        tangents = {name: t.full()[0] for name, t in self.tangents.by_name.items()}
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode (pytorch #128971)
            self.value, self.directional_derivative, moved = self.jvp(tangents, *batch)
        for name, statistic in moved.items():
            self.buffers[name].copy_(statistic)

    def _jvp(self, tangents: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Any, ...]:
        return torch.func.jvp(
            lambda parameters: self._loss(parameters, x, y), (self.primals,), (tangents,), has_aux=True
        )

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # Buffers are copied, as batch norm's running statistics would become dual numbers otherwise.
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        with PaddingStill() if self.pads else nullcontext():
            output = self.call({**parameters, **buffers}, x)
        value = self.loss(output, y)
        return value.reshape(()) if value.dim() else value, buffers

    def _update(self, learning_rate: float) -> None:
        self.update(self.tangents.by_name, self.directional_derivative.unsqueeze(0), learning_rate)

    def generators(self) -> list[torch.Generator]:
        """The generators of the tangents."""
        return self.drawer.generators

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """⟨∇f, v⟩ v with the v of the last step."""
        tangents = [t[0] for t in self.tangents.full()]
        derivative = torch.stack([(g * v).sum() for g, v in zip(gradient, tangents, strict=True)]).sum()
        return [derivative * v for v in tangents]
