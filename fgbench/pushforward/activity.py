"""Activity perturbation (Ren et al. 2023): noise on what layers give, sample by sample.

The noise ε of a layer's output z estimates ∂f/∂z by (∇f·ε) ε; what that says of the layer's own
parameters is the layer's chain rule: for y = x Wᵀ the estimate is Σ_b d_b ε_b x_bᵀ. Where samples do not
meet, each has its own derivative d_b, and the variance of the others stays out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, map_duals, moving, primal_of
from fgbench.pushforward.tangents import Tangent

Addition = tuple[Tensor, Tensor]
"""A parameter and what is to be added to it."""


@dataclass(frozen=True)
class Site:
    """A layer that was perturbed in this pass.

    Attributes:
        module: the layer.
        inputs: its inputs, without tangents.
        noise: [k, *output].
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    noise: Tensor


class ActivityContext(Context):
    """A pass with noise on the output of every layer that has parameters.

    Attributes:
        sites: the layers passed, in order.
    """

    def __init__(
        self, count: int, noise: Callable[[str, Tensor], Tensor], tangents: Mapping[int, Tangent]
    ) -> None:
        """Begin a pass.

        Args:
            count: k.
            noise: gives [k, *output] for a site's name and its output.
            tangents: of parameters that belong to no layer.
        """
        super().__init__(count, tangents)
        self.noise = noise
        self.sites: list[Site] = []

    @property
    def in_layers(self) -> Context:
        """Layers are perturbed at their outputs, even where a function uses their weight too."""
        return Context(self.count, {}, first=self.first)

    def after(self, site: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Add noise to the output of a layer with trainable parameters; of a tuple to its first."""
        if not any(p.requires_grad for p in module.parameters()):
            return output
        first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        noise = self.noise(site, primal_of(first))
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            noise.mul_((inputs[0] != module.padding_idx).unsqueeze(-1))  # what is not learned is not moved
        self.sites.append(Site(module, map_duals(primal_of, inputs), noise))
        moved = moving(first, self.count)
        stack = moved.stack.clone() if moved is first else moved.stack
        stack[1:] += noise
        return Dual(stack) if rest is None else (Dual(stack), *rest)


def additions(sites: Sequence[Site], weights: Tensor) -> list[Addition]:
    """What Σ weights · estimates adds to each layer's parameters; weights: [k, B] or [k, 1]."""
    found: list[Addition] = []
    for site in sites:
        shape = weights.shape + (1,) * (site.noise.dim() - 2)
        found += _of_site(site, (weights.view(shape).to(site.noise.dtype) * site.noise).sum(0))
    return found


def _of_site(site: Site, cotangent: Tensor) -> list[Addition]:
    """The layer's own chain rule at cotangent [*output]; frozen parameters get nothing."""
    module, x = site.module, site.inputs[0]
    if type(module) is nn.Linear:
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        pairs = [(module.weight, rows.t() @ x.reshape(-1, x.shape[-1])), (module.bias, rows.sum(0))]
        return [(p, g) for p, g in pairs if p is not None and p.requires_grad]
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def call(parameters: dict[str, Tensor]) -> Tensor:
        held = {name: b.clone() for name, b in module.named_buffers()}
        output = torch.func.functional_call(module, {**parameters, **held}, site.inputs)
        return output[0] if isinstance(output, tuple) else output

    with torch.enable_grad():
        _, pull = torch.func.vjp(  # type: ignore[misc]
            call, {name: p.detach() for name, p in trained.items()}
        )
        (gradients,) = pull(cotangent)
    return [(p, gradients[name].detach()) for name, p in trained.items()]
