"""Forward gradients: Σ (∇f·v) v over k random tangents a step, without reverse mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fgbench.measurement.quality import Slope, Theory
from fgbench.methods import PLAIN, Conditions, Loss, Step, eager_alone
from fgbench.methods.steps.options import ForwardOptions
from fgbench.methods.steps.theory import of_forward


@dataclass(frozen=True)
class Forward(ForwardOptions):
    """Forward gradient descent on fgbench's own forward mode, or on PyTorch's."""

    summary: ClassVar[str] = "forward gradient (∇f·v) v over k tangents, no reverse mode"
    source: ClassVar[str] = (
        "Baydin et al. 2022 (arXiv 2202.08587); Flügel et al. 2024 (2410.17764); Ren et al. 2023 (2210.03310)"
    )
    costs: ClassVar[str] = (
        "1 + 2k products a layer, k tangents of full size; 1 + k with rank-one; 2 + k with activity, 1 + k + "
        "k/batch with its noise=batch, 3 + k at=block; with layers=one only from the drawn layer on"
    )
    worth: ClassVar[str] = (
        "variance ×: gaussian (n + k + 1)/k; rademacher, sphere and rank-one (n + k − 1)/k; orthonormal "
        "n/k; projection k/n; rademacher or rank-one with layers=one n. Cosine about √(k/n). No closed form "
        "for activity: far less than n"
    )

    @property
    def unbiased(self) -> bool:
        """Whether the estimate's mean is the gradient: true of the plain mean over tangents alone."""
        combined = self.combine == "mean" or (self.combine == "sum" and self.tangents == 1)
        return combined and self.clip == 0 and self.scale == "none"

    @property
    def queries(self) -> int:
        """Evaluations a step: the value, and a derivative along each of the k tangents."""
        return 1 + self.tangents

    def theory(self, slopes: Sequence[Slope]) -> Theory:
        """Expected quality of the estimate, by structure, number of tangents and their combination."""
        return of_forward(self, slopes)

    def refuses(self, execution: str) -> str:
        """What a mode cannot do: compile noise on activities, draw layers in a CUDA graph, and the like."""
        graph, compiled = execution == "cudagraph", execution == "compile"
        if self.at == "block":
            return eager_alone("forward:at=block", execution)
        if self.layers == "one" and graph:
            return (
                "forward:layers=one draws layers on the host, which a CUDA graph cannot do: use --exec eager "
                "or compile."
            )
        if self.sampling == "adaptive" and self.tangents > 1 and compiled:
            return (
                "sampling=adaptive with several tangents cannot be compiled, as any set of layers can be "
                "drawn: use --exec eager."
            )
        if self.structure == "activity" and compiled:
            return "forward:structure=activity cannot be compiled, and runs eagerly: leave --exec out."
        return eager_alone("forward:store=seed", execution) if self.store == "seed" else ""

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model and its loss; the tangents depend on `seed` alone."""
        if self.engine == "stock":
            from fgbench.methods.steps.stock import StockStep

            return StockStep(model, loss, seed, self.structure, conditions)
        return _kind_of_step(self)(model, loss, seed, self, conditions)


def _kind_of_step(options: ForwardOptions) -> Callable[..., Step]:
    one = options.layers == "one"
    if options.at == "block":
        from fgbench.methods.steps.block_activity import BlockActivityStep

        return BlockActivityStep
    if options.structure == "activity":
        from fgbench.methods.steps.activity import ActivityStep
        from fgbench.methods.steps.one_layer_activity import OneLayerActivityStep

        return OneLayerActivityStep if one else ActivityStep
    from fgbench.methods.steps.one_layer import OneLayerStep
    from fgbench.methods.steps.pushforward import PushforwardStep

    return OneLayerStep if one else PushforwardStep


method = Forward
