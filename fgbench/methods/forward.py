"""Forward gradients: Σ (∇f·v) v over k random tangents a step, without reverse mode."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fgbench.methods import PLAIN, Conditions, Loss, Step
from fgbench.methods.steps.options import ForwardOptions


@dataclass(frozen=True)
class Forward(ForwardOptions):
    """Forward gradient descent on fgbench's own forward mode, or on PyTorch's."""

    summary: ClassVar[str] = "forward gradient (∇f·v) v over k tangents, no reverse mode"
    source: ClassVar[str] = (
        "Baydin et al. 2022 (arXiv 2202.08587); Flügel et al. 2024 (2410.17764); Ren et al. 2023 (2210.03310)"
    )

    @property
    def unbiased(self) -> bool:
        """Only the plain mean is."""
        combined = self.combine == "mean" or (self.combine == "sum" and self.tangents == 1)
        return combined and self.clip == 0 and self.scale == "none"

    @property
    def queries(self) -> int:
        """The value and a derivative along each tangent."""
        return 1 + self.tangents

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; the tangents come from `seed` alone."""
        if self.engine == "stock":
            from fgbench.methods.steps.stock import StockStep

            return StockStep(model, loss, seed, self.structure, conditions)
        if self.structure == "activity":
            from fgbench.methods.steps.activity import ActivityStep

            return ActivityStep(model, loss, seed, self, conditions)
        if self.layers == "one":
            from fgbench.methods.steps.one_layer import OneLayerStep

            return OneLayerStep(model, loss, seed, self, conditions)
        from fgbench.methods.steps.pushforward import PushforwardStep

        return PushforwardStep(model, loss, seed, self, conditions)


method = Forward
