"""Every method's warm-up: it leaves no trace in the curve, and nothing to be done for the first time."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import pytest
import torch

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.measurement.clock import Reading
from fgbench.methods import Conditions
from fgbench.specs import registry
from fgbench.training.batches import BatchOrder
from fgbench.training.decay import Exponential
from fgbench.training.loop import Rate, Trainee
from tests.builders import built_model, cross_entropy, tiny_data

MORE = (
    "forward:structure=activity",
    "forward:structure=rank-one,tangents=2",
    "forward:store=seed",
    "forward:engine=stock",
    "local-guess:guess=ntk,target=local,space=activation",
    "backprop:update=in-backward",
)
SPECS = (*registry.names("methods"), *MORE)
ARCHS = ("mlp", "vit", "resnet")  # resnet: batch norm; vit: parameters of no layer
STEPS = 4
RATE = 0.01


class CountingClock:
    """A clock that counts the calls of functions in Python, by function, in each block that it times."""

    def __init__(self) -> None:
        self.blocks: list[Counter[CodeType]] = []

    def time(self, block: Callable[[], object]) -> Reading:
        calls: Counter[CodeType] = Counter()

        def count(frame: Any, event: str, _argument: object) -> None:
            if event == "call":
                calls[frame.f_code] += 1

        sys.setprofile(count)
        try:
            block()
        finally:
            sys.setprofile(None)
        self.blocks.append(calls)
        return Reading(1.0)


class QuietClock:
    def time(self, block: Callable[[], object]) -> Reading:
        block()
        return Reading(1.0)


def trainee(spec: str, arch: str, clock: Any = None, **conditions: str) -> Trainee:
    """Of a small model, or a skip where the method does not go with it or with the conditions."""
    data = tiny_data(samples=32)
    data = dataclasses.replace(data, train_x=doubled(data.train_x), validation_x=doubled(data.validation_x))
    torch.manual_seed(1)
    model = built_model(arch, None, 8, data.in_shape, 3).train()
    try:
        step, tried = (
            methods.prepare(methods.find(spec), own, cross_entropy, 5, Conditions(**conditions))
            for own in (model, copy.deepcopy(model))
        )
        tried.get_ready((data.train_x[:8], data.train_y[:8]))
    except UsageError as error:
        pytest.skip(str(error))
    order = BatchOrder(32, 8, 0)
    return Trainee(
        model, step, cross_entropy, Rate(RATE, Exponential(0.01)), data, order, clock or QuietClock()
    )


def doubled(images: torch.Tensor) -> torch.Tensor:
    """[samples, 1, 4, 4] → [samples, 1, 8, 8], which every architecture takes."""
    return torch.nn.functional.interpolate(images, scale_factor=2)


def curve(one: Trainee, evaluations: int = 3) -> list[tuple[Any, ...]]:
    found = []
    for _ in range(evaluations):
        one.advance(2)
        point = one.evaluate()
        found.append((point.iteration, point.train_seconds, point.train_loss, point.validation_loss))
    assert all(math.isfinite(x) for row in found for x in row)
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "sgd:momentum=0.9,dampening=0.5", "adam"])
@pytest.mark.parametrize("arch", ["mlp", "resnet"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_warm_up_leaves_no_trace_in_the_curve(spec, arch, optimizer):
    one, other = (trainee(spec, arch, optimizer=optimizer) for _ in range(2))
    one.warm_up()
    assert curve(one) == curve(other)


@pytest.fixture
def nothing_let_go_of():
    """What earlier tests left is collected before the test, and nothing in it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("nothing_let_go_of")
@pytest.mark.parametrize("execution", ["eager", "compile"])
@pytest.mark.parametrize("spec", SPECS)
def test_after_a_warm_up_nothing_is_done_for_the_first_time(spec, execution, monkeypatch):
    """By the calls of every function in Python: what is traced, compiled or made once would show.

    The first stretch may do less: the first step of auxiliary networks is due with the model's second.
    """
    # Traced and guarded as ever; what comes of it is run as it is, which spares the test a C++ compiler.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs: graph)
    one = trainee(spec, "mlp", CountingClock(), execution=execution)
    one.warm_up()
    one.clock.blocks.clear()
    for _ in range(3):
        one.advance(STEPS)
        one.evaluate()
    first, second, third = one.clock.blocks
    assert first.total() > STEPS
    assert second == third, "what a stretch does is the same, from some point on"
    assert not first - second, {c.co_qualname: n for c, n in (first - second).items()}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_checkpoint_goes_on_bit_for_bit(spec, arch, tmp_path):
    whole, first, second = (trainee(spec, arch, optimizer="adam" if arch == "vit" else "sgd") for _ in "123")
    wanted = curve(whole, 4)
    curve(first, 2)
    torch.save(first.state(), tmp_path / "state.pt")
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    second.warm_up()
    assert curve(second, 2) == wanted[2:]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("spec", SPECS)
def test_its_generators_are_the_same_before_and_after_a_first_step(spec, arch):
    one = trainee(spec, arch)
    before = one.step.generators()
    one.advance(1)
    after = one.step.generators()
    assert len(before) == len(after)
    assert all(a is b for a, b in zip(before, after, strict=True))
