"""Options of forward gradients, and which of them do not go together."""

from dataclasses import dataclass

from fgbench.errors import UsageError
from fgbench.methods import Method
from fgbench.specs.options import option


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
    angle: float = option(45.0, "degrees to the first tangent, of structure=fixed-angle", minimum=1)
    combine: str = option(
        "mean",
        "of k single forward gradients: mean; sum; projection, the gradient's orthogonal projection on "
        "their span (FROG)",
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

    def __post_init__(self) -> None:
        """Refuse what does not go together, before anything runs."""
        for wrong, text in self._contradictions():
            if wrong:
                raise UsageError(f"forward: {text}.")

    def _contradictions(self) -> list[tuple[bool, str]]:
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
            (activity and self.combine == "projection", "structure=activity has no span to project on"),
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
