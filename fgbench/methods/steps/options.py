"""The options of forward gradients, and which of them contradict each other."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from fgbench.errors import UsageError
from fgbench.methods import Conditions, Method
from fgbench.methods.steps.micro_batches import accumulate_option, counts
from fgbench.specs.options import option

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 0.1


class LayerOptions(Protocol):
    """The options for how the layer that a step perturbs is drawn."""

    @property
    def sampling(self) -> str:
        """`size`, `uniform` or `adaptive`."""

    @property
    def floor(self) -> float:
        """The share of uniform probabilities in adaptive ones."""

    @property
    def bound(self) -> float:
        """The largest 1/p; 0 for none."""


def layers_option() -> Any:
    """The option that says whether a step perturbs all layers or one."""
    return option(
        "all",
        "which layers a step perturbs. all; one: a layer drawn with probability p, whose estimate "
        "is weighed by 1/p. With several tangents there are as many draws. Other layers and the optimiser's "
        "state for them are left alone, so that momentum, Adam's moments and weight decay count only the "
        "layer's own draws",
        choices=("all", "one"),
    )


def sampling_option() -> Any:
    """The option that says how probable each layer is."""
    return option(
        "size",
        "the probabilities p of layers=one. size: in proportion to the numbers perturbed; uniform: the "
        "same for each layer; adaptive: in proportion to √(M/c), where M is the mean of a layer's squared "
        "estimates and c the cost of a step that begins there, and by size until each layer was drawn",
        choices=("size", "uniform", "adaptive"),
    )


def floor_option() -> Any:
    """The option that keeps adaptive probabilities above zero."""
    return option(FLOOR, "the share of uniform probabilities mixed into sampling=adaptive", minimum=0.001)


def bound_option() -> Any:
    """The option that limits the weights 1/p."""
    return option(
        0.0, "the largest 1/p of layers=one, at least the number of layers; 0 for no limit", minimum=0
    )


def contradictions_of_layers(options: LayerOptions, layers: str) -> list[tuple[bool, str]]:
    """Contradictions among these options: whether each is there, and the message for it."""
    return [
        (options.floor > 1, "floor must be at most 1"),
        (bool(options.bound) and layers == "all", "bound needs layers=one"),
        (options.sampling != "size" and layers == "all", f"sampling={options.sampling} needs layers=one"),
        (options.floor != FLOOR and options.sampling != "adaptive", "floor needs sampling=adaptive"),
    ]


@dataclass(frozen=True)
class ForwardOptions(Method):
    """How many tangents there are, how they are drawn, and how their derivatives are combined."""

    tangents: int = option(1, "k, the number of tangents in a step", minimum=1)
    structure: str = option(
        "gaussian",
        "the distribution of tangents. gaussian: independent N(0, 1) entries, as published; rademacher: "
        "independent ±1; sphere: uniform on the sphere of radius √n; rank-one: u wᵀ for each weight; "
        "orthonormal: at right angles to each other, each of length √n; fixed-angle: all at one angle to "
        "the first; activity: noise on layers' outputs, for each sample by itself",
        choices=(
            "gaussian",
            "rademacher",
            "sphere",
            "rank-one",
            "orthonormal",
            "fixed-angle",
            "activity",
        ),
    )
    entries: str = option(
        "rademacher",
        "entries of rank-one's factors and of activity's noise. rademacher: ±1; gaussian: N(0, 1)",
        choices=("rademacher", "gaussian"),
    )
    noise: str = option(
        "sample",
        "the noise of structure=activity. sample: each sample of the batch has noise of its own; batch: all "
        "samples have the same, as in Flügel et al. 2024, and each still has its own derivatives along it",
        choices=("sample", "batch"),
    )
    at: str = option(
        "layer",
        "where structure=activity adds its noise. layer: to each layer's output; block: to each block's, a "
        "layer with the activation function and what else follows it, as in Flügel et al. 2024: units that "
        "the function has switched off are not moved. Reverse mode goes back through each block by itself",
        choices=("layer", "block"),
    )
    angle: float = option(45.0, "degrees to the first tangent, for structure=fixed-angle", minimum=1)
    combine: str = option(
        "mean",
        "how k forward gradients are combined. mean; sum; projection: the gradient, projected on the span of "
        "the tangents (FROG), for all parameters together or with structure=activity for all activities, "
        "sample by sample",
        choices=("mean", "sum", "projection"),
    )
    chunk: int = option(0, "how many tangents are taken at once, to save memory; 0 for all", minimum=0)
    store: str = option(
        "keep",
        "where full tangents are between drawing and update. keep: in memory; seed: nowhere, they are drawn "
        "again from a seed",
        choices=("keep", "seed"),
    )
    clip: float = option(0.0, "the largest size of a directional derivative; 0 for no limit", minimum=0)
    scale: str = option(
        "none",
        "how the estimate is scaled. none: not at all; variance: so that E‖g‖² = ‖∇f‖² (biased)",
        choices=("none", "variance"),
    )
    engine: str = option(
        "pushforward",
        "the implementation of forward mode. pushforward: fgbench's own rules; stock: torch.func.jvp",
        choices=("pushforward", "stock"),
    )
    layers: str = layers_option()
    sampling: str = sampling_option()
    floor: float = floor_option()
    bound: float = bound_option()
    accumulate: int = accumulate_option()

    def clipped(self, derivatives: "Tensor") -> "Tensor":
        """Directional derivatives within the limit, if there is one."""
        return derivatives.clamp(-self.clip, self.clip) if self.clip else derivatives

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """Combinations of micro-batches, chunks of tangents, and tangents drawn again instead of kept."""
        several = self.tangents > 1 and not self.chunk and self.structure != "activity"
        chunks = [2**power for power in range((self.tangents - 1).bit_length())] if several else []
        open_ = self.accumulate == 1 and self.structure != "activity" and self.engine != "stock"
        for store in dict.fromkeys((self.store, "seed")):
            for chunk in (self.chunk, *chunks):
                for count in counts(samples) if open_ else (self.accumulate,):
                    with suppress(UsageError):  # this combination contradicts the other options
                        yield replace(self, store=store, chunk=chunk, accumulate=count)

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, before anything runs."""
        for wrong, text in self._contradictions():
            if wrong:
                raise UsageError(f"forward: {text}.")

    def _contradictions(self) -> list[tuple[bool, str]]:
        return [
            *self._of_tangents(),
            *self._without_effect(),
            *self._of_one_layer(),
            *contradictions_of_layers(self, self.layers),
        ]

    def _of_one_layer(self) -> list[tuple[bool, str]]:
        one = self.layers == "one"
        together = self.combine == "projection" or self.structure in ("orthonormal", "fixed-angle")
        return [
            (one and self.engine == "stock", "engine=stock perturbs all layers: leave layers=one out"),
            (
                one and together,
                "layers=one draws each tangent in a layer of its own: leave combine=projection, "
                "structure=orthonormal and structure=fixed-angle out",
            ),
            (one and self.scale == "variance", "scale=variance needs layers=all"),
            (one and self.at == "block", "layers=one draws a layer: leave at=block out"),
        ]

    def _of_tangents(self) -> list[tuple[bool, str]]:
        stock = self.engine == "stock"
        activity = self.structure == "activity"
        single = self.combine == "mean" and not (self.chunk or self.clip) and self.scale == "none"
        rotated = self.structure in ("gaussian", "sphere", "orthonormal")
        known = self.structure not in ("fixed-angle", "activity") and not (
            self.structure == "rank-one" and self.entries == "gaussian"
        )
        return [
            (
                stock and (self.structure not in ("gaussian", "rademacher") or self.tangents > 1),
                "engine=stock takes one tangent of structure gaussian or rademacher",
            ),
            (
                stock and not (single and self.store == "keep"),
                "engine=stock takes no combine, chunk, store, clip or scale",
            ),
            (
                (activity or stock) and self.accumulate > 1,
                "structure=activity and engine=stock take a whole batch at once: leave accumulate out",
            ),
            (
                activity and bool(self.chunk),
                "structure=activity takes all tangents at once: leave chunk out",
            ),
            (
                self.store == "seed" and self.structure in ("rank-one", "activity"),
                f"structure={self.structure} stores no full tangents: leave store=seed out",
            ),
            (
                self.scale == "variance" and not known,
                "scale=variance needs a structure with a known second moment: gaussian, rademacher, "
                "sphere, orthonormal, or rank-one with entries=rademacher",
            ),
            (
                self.scale == "variance" and self.combine == "projection" and not rotated,
                "scale=variance with combine=projection needs structure gaussian, sphere or orthonormal",
            ),
            (self.angle > 90, "angle must be at most 90 degrees"),
        ]

    def _without_effect(self) -> list[tuple[bool, str]]:
        """Options that would change nothing: the same method would be measured under another name."""
        return [
            (self.noise == "batch" and self.structure != "activity", "noise=batch is of structure=activity"),
            (self.at == "block" and self.structure != "activity", "at=block is of structure=activity"),
            (
                self.entries == "gaussian" and self.structure not in ("rank-one", "activity"),
                "entries=gaussian is of structure=rank-one and structure=activity",
            ),
            (
                self.angle != ForwardOptions.angle and self.structure != "fixed-angle",
                "angle is of structure=fixed-angle",
            ),
            (
                bool(self.chunk) and self.chunk >= self.tangents,
                f"chunk={self.chunk} needs more than {self.chunk} tangents, which it takes in several turns",
            ),
        ]
