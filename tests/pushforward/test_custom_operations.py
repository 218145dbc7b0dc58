"""Operations of other libraries, along which PyTorch's forward mode says nothing and gives zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.pushforward.checks import check


@torch.library.custom_op("fgbench_tests::squared", mutates_args=())
def squared(x: Tensor) -> Tensor:
    return x * x


squared.register_autograd(
    lambda ctx, slope: 2 * ctx.saved_tensors[0] * slope,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
LIBRARY = torch.library.Library("fgbench_tests_composed", "DEF")
LIBRARY.define("twisted(Tensor x) -> Tensor")
LIBRARY.impl("twisted", lambda x: 2 * x + x.sin(), "CompositeImplicitAutograd")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.layer = nn.Parameter(torch.randn(8)), nn.Linear(8, 8)


class BySquared(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(squared(self.layer(x))) * squared(self.gate)


class ByTwisted(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * torch.ops.fgbench_tests_composed.twisted(self.gate)


class Aligned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import roi_align

        places = torch.tensor([[i, 0, 0, 4, 4] for i in range(len(x))], dtype=x.dtype)
        return roi_align(self.layer(x), places, 2)


def test_pytorch_gives_a_tangent_of_zero_and_no_error():
    """If this changes, the way by their backward pass is no longer needed."""
    _, moved = torch.func.jvp(squared, (torch.ones(3),), (torch.ones(3),))
    assert not moved.any()


def test_they_run_by_their_backward_pass():
    engine = check(BySquared(), torch.randn(4, 8, dtype=torch.float64))
    assert any("its backward pass" in text for text in engine.fallbacks)


def test_those_that_are_composed_of_pytorchs_have_their_forward_mode():
    engine = check(ByTwisted(), torch.randn(4, 8, dtype=torch.float64))
    assert engine.fallbacks == ["function twisted: torch.func.jvp"]


def test_one_whose_backward_pass_cannot_be_differentiated_is_refused():
    pytest.importorskip("torchvision", exc_type=Exception)
    with pytest.raises(
        NotImplementedError, match="roi_align has no forward mode in PyTorch, and its backward"
    ):
        check(Aligned(), torch.randn(2, 3, 6, 6, dtype=torch.float64))
