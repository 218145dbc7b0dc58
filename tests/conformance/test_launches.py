"""How many kernels a step launches: a budget for each spec, by what PyTorch dispatches on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fgbench import architectures, methods
from tests.builders import cross_entropy

NOTHING = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::_unsafe_view")
BUDGETS = {
    "backprop": 57,
    "forward": 77,
    "forward:tangents=4": 102,
    "forward:structure=rademacher": 80,
    "forward:structure=rank-one": 89,
    "forward:structure=activity": 131,  # 8 of them keep what went into a layer, and free a stack each
    "forward:structure=sphere": 125,
}


class Launches(TorchDispatchMode):
    """Counts operations that would launch a kernel: neither views nor memory alone."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        view = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        self.count += schema.name.startswith("aten::") and not view and schema.name not in NOTHING
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("spec", "budget"), BUDGETS.items())
def test_a_step_launches_no_more_than_it_does_now(spec, budget):
    """On an MLP of depth 8, where a GPU's step at a small width is its launches."""
    model = architectures.build("mlp", 8, 16, (1, 8, 8), 4)
    batch = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    step = methods.prepare(methods.find(spec), model, cross_entropy, 0)
    step(batch, 1e-3)
    with Launches() as launches:
        step(batch, 1e-3)
    assert launches.count == budget, "a step that launches less may lower its budget"
