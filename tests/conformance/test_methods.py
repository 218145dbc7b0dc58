"""Every registered method and every value of its options, whoever wrote it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from fgbench import architectures, methods, oracle, registry
from fgbench.options import canonical, options_of
from fgbench.worker.matched import weights_hash
from tests.builders import cross_entropy, flat, reverse_gradient, tiny_batch, tiny_mlp, updates

DRAWS = 3000
FALSE_ALARMS = 1e-4  # of a whole test of unbiasedness, over all components
IN_SHAPE, CLASSES = (1, 8, 8), 5


def every_spec() -> list[str]:
    """Every method as it is by default, and with each value of each option that has choices."""
    specs = []
    for name in registry.names("methods"):
        owner = type(methods.find(name))
        specs.append(name)
        specs += [f"{name}:{o.name}={value}" for o in options_of(owner) for value in o.choices or ()]
    return list(methods.canonical_specs(sorted({canonical(s.split(":")[0], methods.find(s)) for s in specs})))


def small_model(arch: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(1)
    return architectures.build(arch, 2, 8, IN_SHAPE, CLASSES).to(dtype).train()


def small_batch(dtype: torch.dtype) -> methods.Batch:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(16, *IN_SHAPE, generator=generator).to(dtype), torch.arange(16) % CLASSES


def weights_after(spec: str, steps: int, seed: int) -> str:
    model = tiny_mlp(dtype=torch.float32)
    step = methods.find(spec).prepare(model, cross_entropy, seed)
    for _ in range(steps):
        step(tiny_batch(torch.float32), 0.01)
    return weights_hash(model)


def test_the_default_of_each_method_is_among_the_specs():
    assert set(registry.names("methods")) <= set(every_spec())


@pytest.mark.parametrize("spec", every_spec())
class TestEveryMethod:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("arch", registry.names("architectures"))
    def test_its_step_is_what_reverse_mode_says(self, spec, arch, dtype):
        oracle.check_step(
            methods.find(spec), small_model(arch, dtype), cross_entropy, small_batch(dtype), seed=5
        )

    def test_its_mean_update_is_the_gradient(self, spec):
        """A z-test for each component, at an error rate of 1e-4 over all of them together."""
        model, batch = tiny_mlp(), tiny_batch()
        gradient = flat(reverse_gradient(model, batch))
        step = methods.find(spec).prepare(model, cross_entropy, seed=11)
        estimates = torch.stack(list(updates(step, batch, DRAWS)))
        off = estimates.mean(dim=0) - gradient
        error = estimates.std(dim=0) / math.sqrt(DRAWS)
        rounding = 1e-9 * float(gradient.norm())
        z = off.abs() / (error + rounding)
        limit = float(stats.norm.isf(FALSE_ALARMS / 2 / len(gradient)))
        assert float(z.max()) < limit, f"component {int(z.argmax())} is {float(z.max()):.1f} errors off"

    def test_loss_falls(self, spec):
        model, batch = tiny_mlp(), tiny_batch()
        step = methods.find(spec).prepare(model, cross_entropy, seed=3)
        losses = [float(step(batch, 0.01)) for _ in range(300)]
        assert sum(losses[-20:]) / 20 < 0.9 * losses[0], (losses[0], losses[-1])

    def test_reports_the_loss_before_its_update(self, spec):
        model, batch = tiny_mlp(), tiny_batch()
        with torch.no_grad():
            before = float(cross_entropy(model(batch[0]), batch[1]))
        value = methods.find(spec).prepare(model, cross_entropy, seed=0)(batch, 0.5)
        assert value.shape == ()
        assert not value.requires_grad
        assert float(value) == pytest.approx(before, rel=1e-12)

    def test_same_seed_gives_the_same_weights_bit_for_bit(self, spec):
        assert weights_after(spec, 3, seed=7) == weights_after(spec, 3, seed=7)

    def test_another_seed_matters_just_where_something_is_drawn(self, spec):
        step = methods.find(spec).prepare(tiny_mlp(), cross_entropy, seed=0)
        one, other = list(updates(step, tiny_batch(), 2))
        drawn = not torch.allclose(one, other, rtol=1e-9)
        assert (weights_after(spec, 3, seed=7) != weights_after(spec, 3, seed=8)) == drawn

    def test_learning_rate_0_leaves_the_weights(self, spec):
        model = tiny_mlp()
        before = weights_hash(model)
        methods.find(spec).prepare(model, cross_entropy, seed=0)(tiny_batch(), 0.0)
        assert weights_hash(model) == before

    def test_learning_rate_may_change_from_step_to_step(self, spec):
        model, batch = tiny_mlp(), tiny_batch()
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        for learning_rate in (0.1, 1e-3):
            before, gradient = flat(list(step.parameters)), reverse_gradient(model, batch)
            step(batch, learning_rate)
            moved = (before - flat(list(step.parameters))) / learning_rate
            wanted = flat(step.expected(gradient))
            assert float((moved - wanted).norm() / wanted.norm()) < 1e-9, learning_rate

    def test_its_parameters_are_the_models_trainable_ones_in_order(self, spec):
        model = tiny_mlp()
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        wanted = [p.data_ptr() for p in model.parameters() if p.requires_grad]
        assert [p.data_ptr() for p in step.parameters] == wanted

    def test_canonical_spec_finds_it_again(self, spec):
        method = methods.find(spec)
        assert canonical(spec.split(":")[0], method) == spec
        assert methods.find(canonical(spec.split(":")[0], method)) == method

    def test_says_what_it_is_and_where_it_comes_from(self, spec):
        method = methods.find(spec)
        assert method.summary
        assert method.source
        assert all(option.help for option in options_of(type(method)))
