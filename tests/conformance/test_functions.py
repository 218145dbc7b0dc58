"""Every registered test function, whoever wrote it."""

from __future__ import annotations

import pytest
import torch

from fgbench import functions, methods
from fgbench.errors import UsageError
from fgbench.methods.steps import oracle
from fgbench.specs import registry
from tests.conformance.test_methods import PARTICULAR

NAMES = registry.names("functions")
SPECS = [
    *registry.names("methods"),
    "backprop:update=in-backward",
    "forward:engine=stock",
    "forward:tangents=3,structure=sphere",
    "forward:tangents=2,structure=rademacher,combine=projection",
    "forward:tangents=4,structure=fixed-angle,angle=30",
]


def sizes(name: str) -> list[int]:
    """Its default, its least, and a larger one where it has any."""
    function = functions.find(name)
    found = {function.default_n, function.least_n, 9}
    return [function.default_n] if function.fixed_n else sorted(found)


def slope(name: str, x: torch.Tensor) -> torch.Tensor:
    at = x.clone().requires_grad_()
    return torch.autograd.grad(functions.find(name).value(at), at)[0]


@pytest.mark.parametrize("name", NAMES)
class TestEveryFunction:
    def test_has_a_finite_slope_at_its_start(self, name):
        for n in sizes(name):
            start = functions.find(name).start(n)
            assert (start.shape, start.dtype) == ((n,), torch.float64)
            gradient = slope(name, start)
            assert gradient.isfinite().all()
            assert gradient.norm() > 0

    def test_has_its_minimum_where_it_says(self, name):
        function = functions.find(name)
        for n in sizes(name):
            lowest, at = function.minimum(n), function.minimizer(n)
            assert float(function.value(at)) == pytest.approx(lowest, rel=1e-12, abs=1e-12)
            assert lowest < float(function.value(function.start(n)))
            assert slope(name, at).norm() < 1e-9

    def test_is_higher_all_round_its_minimum(self, name):
        function = functions.find(name)
        generator = torch.Generator().manual_seed(0)
        for n in sizes(name):
            at = function.minimizer(n)
            for _ in range(50):
                away = torch.randn(n, dtype=torch.float64, generator=generator)
                assert float(function.value(at + 0.1 * away)) > function.minimum(n)

    @pytest.mark.parametrize("spec", SPECS)
    def test_every_method_steps_on_it_as_reverse_mode_says(self, name, spec):
        function, n = functions.find(name), sizes(name)[-1]
        model, loss, batch = functions.as_problem(function, n)
        with torch.no_grad():  # off the start, where a value of 0 leaves errors nothing to be a share of
            model.x.lerp_(function.minimizer(n), 0.5)
        try:
            oracle.check_step(methods.find(spec), model, loss, batch, seed=5)
        except UsageError as error:
            if spec in PARTICULAR:
                pytest.skip(str(error))
            raise

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_the_engine_has_a_rule_for_all_of_it(self, name, dtype):
        model, loss, batch = functions.as_problem(functions.find(name), sizes(name)[-1], dtype)
        step = methods.find("forward").prepare(model, loss, seed=0)
        assert step(batch, 1e-4).dtype == dtype
        assert step.notes() == []

    def test_says_what_it_is(self, name):
        assert functions.find(name).summary
        assert functions.find(name).source
