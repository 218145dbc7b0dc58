"""Local losses: every block is trained by an auxiliary loss of its own, without gradients between blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Step, eager_alone
from fgbench.methods.steps.auxiliary import HELP, KINDS
from fgbench.methods.steps.blocks import activation, each
from fgbench.methods.steps.blockwise import BlockwiseStep, by_block, in_order
from fgbench.specs.options import option


@dataclass(frozen=True)
class LocalLosses(Method):
    """Greedy training of all blocks at once; the last block has the end-to-end loss."""

    aux: str = option("linear", HELP, choices=KINDS)
    blocks: int = option(8, "how many blocks the model is cut into, or as many as it has", minimum=1)

    summary: ClassVar[str] = "each block by its auxiliary loss alone, no gradient between blocks"
    source: ClassVar[str] = (
        "Nøkland & Eidnes 2019 (arXiv 1901.06656); Belilovsky et al. 2019 (1901.08164); networks of Fournier "
        "et al. 2023 (2306.06968)"
    )
    costs: ClassVar[str] = "3 products a layer, and those of the auxiliary networks"
    worth: ClassVar[str] = "no formula: the gradient of other losses"

    @property
    def unbiased(self) -> bool:
        """Biased: an auxiliary loss has another gradient than the end-to-end loss."""
        return False

    @property
    def queries(self) -> int:
        """3, as for backprop: a pass forward and one back, in pieces; auxiliary networks are not counted."""
        return 3

    def refuses(self, execution: str) -> str:
        """All modes but eager, as blocks run one after the other."""
        return eager_alone("local-losses", execution)

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; auxiliary networks depend on `seed` alone."""
        return LocalLossesStep(model, loss, seed, self.blocks, self.aux, conditions)


class LocalLossesStep(BlockwiseStep):
    """Forward and backward in one block after the other, so that one block's activations live at a time."""

    name = "local-losses"

    def roles(self) -> dict[str, bool]:
        """One set of auxiliary networks, each trained by its own loss."""
        return {"own": True}

    def _forward(self, batch: Batch) -> None:
        x = batch[0]
        for index, block in enumerate(self.inner):
            with torch.enable_grad():
                output = block.module(x)
            slope = self.auxiliaries["own"].slope(index, output, batch[1], learn=True)
            pulled = torch.autograd.grad(activation(output), block.parameters, slope, materialize_grads=True)
            self._keep(block, pulled)
            x = each(torch.Tensor.detach, output)
            del output
        self._forward_last(x, batch[1])

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """Each block's gradient of its auxiliary loss; for the last block, of the end-to-end loss."""
        blocks, _, outputs = self.by_reverse_mode(model, batch)
        found = by_block(model, blocks, gradient)
        for index, (block, output) in enumerate(zip(blocks[:-1], outputs, strict=False)):
            value = self.loss(self.auxiliaries["own"].networks[index](activation(output)), batch[1])
            own = torch.autograd.grad(value, block.parameters, retain_graph=True, materialize_grads=True)
            found[index] = list(own)
        return in_order(model, blocks, found)


method = LocalLosses
