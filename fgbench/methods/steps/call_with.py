"""Call a module with other tensors in the place of its parameters and buffers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class CallWith:
    """`torch.func.functional_call` of one module, which has its own tensors again afterwards.

    PyTorch's leaves the others in a module that has two names, as in `nn.Sequential(*[layer] * 3)`: it puts
    tensors in and takes them out by name, and at the second name it finds what it put in at the first.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        named = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
        self.of_two_names = [part for part in module.modules() if named[id(part)] > 1]

    def __call__(self, tensors: dict[str, Tensor], *arguments: Any) -> Any:
        """What the module gives for the arguments with these tensors, by name."""
        held = [(own, dict(own)) for m in self.of_two_names for own in (m._parameters, m._buffers)]
        try:
            return functional_call(self.module, tensors, arguments)
        finally:
            for own, before in held:
                own.update(before)  # type: ignore[arg-type]
