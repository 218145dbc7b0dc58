"""Options of forward gradients, and which of them do not go together."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fgbench.errors import UsageError
from fgbench.methods import Conditions, Method
from fgbench.methods.steps.micro_batches import accumulate_option, counts
from fgbench.specs.options import option


class LayerOptions(Protocol):
    """How the one layer is drawn that a step perturbs."""

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
    """Whether a step perturbs all layers or one."""
    return option(
        "all",
        "which layers a step perturbs: all; or one, drawn with a probability p, whose estimate weighs 1/p. "
        "With several tangents, as many draws. The other layers are left alone, and so is what the optimiser "
        "remembers of them: momentum, Adam's moments and weight decay count a layer's own draws",
        choices=("all", "one"),
    )


def sampling_option() -> Any:
    """How probable each layer is."""
    return option(
        "size",
        "p of layers=one. size: as large a share as of the numbers that are perturbed; uniform: the same for "
        "each layer; adaptive: in proportion to √(M/c), with M the running mean of the layer's squared "
        "estimates and c what a step costs from there on, by size until each layer was drawn",
        choices=("size", "uniform", "adaptive"),
    )


def floor_option() -> Any:
    """What keeps adaptive probabilities from zero."""
    return option(0.1, "the share of uniform probabilities in those of sampling=adaptive", minimum=0.001)


def bound_option() -> Any:
    """What keeps weights from being large."""
    return option(0.0, "the largest 1/p of layers=one, at least the number of layers; 0 for none", minimum=0)


def contradictions_of_layers(options: LayerOptions, layers: str) -> list[tuple[bool, str]]:
    """What of these options does not go together, and what to say."""
    return [
        (options.floor > 1, "floor must be at most 1"),
        (bool(options.bound) and layers == "all", "bound is of layers=one"),
    ]


@dataclass(frozen=True)
class ForwardOptions(Method):
    """How tangents are drawn, how many there are, and what is made of the derivatives along them."""

    tangents: int = option(1, "k, tangents a step", minimum=1)
    structure: str = option(
        "gaussian",
        "how a tangent's entries depend on each other. gaussian: not at all, N(0, 1), as published; "
        "rademacher: not at all, ±1; sphere: uniform on the sphere of radius √n; rank-one: u wᵀ for each "
        "weight; orthonormal: at right angles, each of length √n; fixed-angle: each at one angle to the "
        "first; activity: noise on layers' outputs, sample by sample",
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
        "of rank-one's factors and of activity's noise: rademacher ±1, or gaussian",
        choices=("rademacher", "gaussian"),
    )
    noise: str = option(
        "sample",
        "of structure=activity. sample: each sample of the batch has noise of its own; batch: all have the "
        "same, as in Flügel et al. 2024, and each still its own derivatives along it",
        choices=("sample", "batch"),
    )
    angle: float = option(45.0, "degrees to the first tangent, of structure=fixed-angle", minimum=1)
    combine: str = option(
        "mean",
        "of k single forward gradients: mean; sum; projection, the gradient's orthogonal projection on "
        "their span (FROG): of all parameters together, or with structure=activity of all activities, "
        "sample by sample",
        choices=("mean", "sum", "projection"),
    )
    chunk: int = option(0, "tangents taken at once, where memory is short; 0 for all", minimum=0)
    store: str = option(
        "keep",
        "full tangents between drawing and update: keep them in memory, or draw them again from a seed",
        choices=("keep", "seed"),
    )
    clip: float = option(0.0, "largest size of a directional derivative; 0 for no limit", minimum=0)
    scale: str = option(
        "none",
        "of the estimate: none; variance, shorter, so that E‖g‖² = ‖∇f‖² (biased)",
        choices=("none", "variance"),
    )
    engine: str = option(
        "pushforward",
        "pushforward: fgbench's rules; stock: torch.func.jvp, out of the box",
        choices=("pushforward", "stock"),
    )
    layers: str = layers_option()
    sampling: str = sampling_option()
    floor: float = floor_option()
    bound: float = bound_option()
    accumulate: int = accumulate_option()

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """Micro-batches, tangents taken a few at once, and full tangents drawn again instead of kept."""
        several = self.tangents > 1 and not self.chunk and self.structure != "activity"
        chunks = [2**power for power in range((self.tangents - 1).bit_length())] if several else []
        open_ = self.accumulate == 1 and self.structure != "activity" and self.engine != "stock"
        for store in dict.fromkeys((self.store, "seed")):
            for chunk in (self.chunk, *chunks):
                for count in counts(samples) if open_ else (self.accumulate,):
                    with suppress(UsageError):  # which does not go with the other options
                        yield replace(self, store=store, chunk=chunk, accumulate=count)

    def __post_init__(self) -> None:
        """Refuse what does not go together, before anything runs."""
        for wrong, text in self._contradictions():
            if wrong:
                raise UsageError(f"forward: {text}.")

    def _contradictions(self) -> list[tuple[bool, str]]:
        return [
            *self._of_tangents(),
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
            (one and self.scale == "variance", "scale=variance is of tangents of all layers"),
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
                "engine=stock has one tangent, structure gaussian or rademacher",
            ),
            (
                stock and not (single and self.store == "keep"),
                "engine=stock has no combine, chunk, store, clip or scale",
            ),
            (self.noise == "batch" and not activity, "noise=batch is of structure=activity"),
            (
                (activity or stock) and self.accumulate > 1,
                "structure=activity and engine=stock take a batch at once: leave accumulate out",
            ),
            (activity and bool(self.chunk), "structure=activity takes its tangents at once: leave chunk out"),
            (
                self.store == "seed" and self.structure in ("rank-one", "activity"),
                f"structure={self.structure} stores no full tangents: leave store=seed out",
            ),
            (
                self.scale == "variance" and not known,
                "scale=variance needs a structure whose second moment is known: gaussian, rademacher, "
                "sphere, orthonormal, or rank-one with entries=rademacher",
            ),
            (
                self.scale == "variance" and self.combine == "projection" and not rotated,
                "scale=variance of a projection needs structure gaussian, sphere or orthonormal",
            ),
            (self.angle > 90, "angle must be at most 90 degrees"),
        ]
