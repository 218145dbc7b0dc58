"""Every registered architecture, whoever wrote it."""

from __future__ import annotations

import pytest
import torch

from fgbench import architectures, methods
from fgbench.errors import UsageError
from fgbench.running.matched import weights_hash
from fgbench.specs import registry
from tests.builders import built_model, loss_for, suited_batch, suited_shape

NAMES = registry.names("architectures")
IN_SHAPE, CLASSES = (1, 8, 8), 5


def built(name: str, depth: int | None = None, seed: int = 0) -> torch.nn.Module:
    family = architectures.find(name)
    torch.manual_seed(seed)
    return built_model(name, depth or family.default_depth, min(family.default_width, 8), IN_SHAPE, CLASSES)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
class TestEveryArchitecture:
    def test_same_seed_gives_the_same_weights_another_seed_others(self, name):
        assert weights_hash(built(name, seed=3)) == weights_hash(built(name, seed=3))
        assert weights_hash(built(name, seed=3)) != weights_hash(built(name, seed=4))

    def test_depth_is_honoured(self, name):
        depths = architectures.find(name).depths or (1, 2, 3, 6)
        # At one width each layer more has weights of its own; pooling may shrink what comes after it.
        layers = [sum(1 for p in built(name, depth).parameters() if p.ndim > 1) for depth in depths]
        assert layers == sorted(set(layers)), layers
        counts = [parameters(built(name, depth)) for depth in depths if depth != 1]
        assert counts == sorted(set(counts)), counts

    def test_a_depth_that_it_does_not_have_is_refused_with_those_that_it_has(self, name):
        family = architectures.find(name)
        if not family.depths:
            pytest.skip("has any depth")
        assert family.default_depth in family.depths
        with pytest.raises(UsageError) as caught:
            built(name, max(family.depths) + 1)
        assert all(str(depth) in str(caught.value) for depth in family.depths)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("batch", [1, 3])
    def test_output_is_a_logit_for_each_class(self, name, batch):
        x, y = suited_batch(name, batch, IN_SHAPE, CLASSES, torch.float32)
        assert built(name).eval()(x).shape == (*y.shape, CLASSES)

    def test_takes_mnist_shaped_images_at_its_defaults(self, name):
        family = architectures.find(name)
        if family.takes != architectures.IMAGES:
            pytest.skip("takes no images")
        width = min(family.default_width, 16)
        model = built_model(name, family.default_depth, width, (1, 28, 28), 10)
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

    def test_a_backprop_step_in_float64_moves_every_parameter(self, name):
        model = built(name).double().train()
        before = {key: value.clone() for key, value in model.named_parameters()}
        batch = suited_batch(name, 16, IN_SHAPE, CLASSES, torch.float64)
        loss = methods.find("backprop").prepare(model, loss_for(name), seed=0)(batch, 0.1)
        assert torch.isfinite(loss), loss
        still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
        assert not still

    def test_signal_neither_dies_nor_explodes_with_depth(self, name):
        torch.manual_seed(0)
        depth = max(architectures.find(name).depths, default=30)
        model = built_model(name, depth, 32, IN_SHAPE, CLASSES).train()  # by the batch's own statistics
        x, _ = suited_batch(name, 64, IN_SHAPE, CLASSES, torch.float32)
        spread = float(model(x).detach().std())
        assert 1e-2 < spread < 1e2, spread

    def test_data_of_another_kind_is_refused_in_one_line(self, name):
        family = architectures.find(name)
        other = (1, 8, 8) if len(suited_shape(name, IN_SHAPE)) == 1 else (8,)
        with pytest.raises(UsageError, match=f"--arch {name} takes {family.takes}, and") as caught:
            architectures.build(name, family.default_depth, 8, other, CLASSES)
        assert "\n" not in str(caught.value)

    def test_says_what_it_is(self, name):
        assert architectures.find(name).summary
