"""The multilayer perceptron's initial weights: He's, or PyTorch's own."""

import pytest
from torch import nn

from fgbench import architectures


@pytest.mark.parametrize(
    ("name", "scale"),
    [("mlp", 6), ("fgbench.architectures.mlp:default_initialised", 1)],
    ids=["He", "PyTorch"],
)
def test_weights_are_uniform_within_their_bound(name, scale):
    model = architectures.build(name, 2, 64, (1, 8, 8), 10)
    inner = [layer for layer in model.children() if isinstance(layer, nn.Linear)][:-1]
    assert len(inner) == 2
    for layer in inner:
        bound = (scale / layer.in_features) ** 0.5
        assert 0.98 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert bool(layer.bias.any()) == (name != "mlp")
