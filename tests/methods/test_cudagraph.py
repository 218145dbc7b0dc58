"""Captured steps, on graphs that a CPU replays: what a GPU would do with what was recorded."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions
from fgbench.methods.steps import oracle
from fgbench.methods.steps.cudagraph import WARM_UP_CALLS, Graph
from fgbench.methods.steps.oracle import WrongStepError, check_base, check_step
from fgbench.running.arms import Problem
from fgbench.running.phases.time import time_methods
from fgbench.training.beginning import Beginning
from tests.builders import cross_entropy, flat, tiny_batch, tiny_matched, tiny_mlp
from tests.simulated_cuda import SimulatedCuda, SimulatedGraph, simulate

CAPTURED = Conditions("cudagraph")
OPTIMIZERS = [
    *("sgd:momentum=0.9", "sgd:momentum=0.9,nesterov=true,weight_decay=0.01"),
    *("adam", "adamw", "nadam", "radam", "adamax", "adadelta", "asgd", "rprop", "rmsprop:momentum=0.9"),
]


@pytest.fixture
def cuda(monkeypatch) -> SimulatedCuda:
    return simulate(monkeypatch)


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    made = [torch.randn(12, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(x, torch.arange(12) % 3) for x in made]


def trained(spec: str, conditions: Conditions, learning_rate: float = 0.01) -> list[torch.Tensor]:
    """Weights after each of five steps, losses before them."""
    model = tiny_mlp()
    step = methods.prepare(methods.find(spec), model, cross_entropy, 3, conditions)
    found = []
    for batch in batches(5):
        value = step(batch, learning_rate).clone().reshape(1)
        found.append(torch.cat([value, flat(list(model.parameters())).detach()]))
    return found


SPECS = [
    *("backprop", "backprop:update=in-backward", "forward", "forward:structure=rank-one"),
    *("forward:tangents=4", "forward:structure=sphere", "forward:structure=activity"),
    *("forward:tangents=4,chunk=2", "forward:tangents=3,combine=projection"),
    *("forward:tangents=3,structure=orthonormal", "forward:tangents=3,structure=fixed-angle"),
]


@pytest.mark.usefixtures("cuda")
class TestACapturedStep:
    @pytest.mark.parametrize("spec", SPECS)
    def test_it_trains_as_the_step_itself(self, spec):
        for eager, captured in zip(trained(spec, methods.PLAIN), trained(spec, CAPTURED), strict=True):
            torch.testing.assert_close(captured, eager, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("spec", SPECS)
    def test_the_oracle_lets_it_pass(self, spec):
        check_step(methods.find(spec), tiny_mlp(), cross_entropy, tiny_batch(), 5, CAPTURED)

    @pytest.mark.parametrize("spec", ["backprop:accumulate=2", "forward:accumulate=2"])
    def test_one_that_draws_other_masks_is_checked_without_dropout(self, spec):
        torch.manual_seed(0)
        drops = nn.Dropout(0.5), nn.Linear(16, 6), nn.Dropout(0.5), nn.Linear(6, 3)
        model = nn.Sequential(nn.Flatten(), *drops).double()
        check_step(methods.find(spec), model, cross_entropy, tiny_batch(), 5, CAPTURED)

    @pytest.mark.parametrize("spec", ["backprop:update=foreach", "backprop:update=in-backward"])
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_an_optimisers_state_begins_as_a_fresh_ones(self, optimizer, spec):
        """Warm-up calls leave no trace, and not every state begins at zero."""
        eager = trained(spec, Conditions(optimizer=optimizer))
        captured = trained(spec, Conditions("cudagraph", optimizer))
        for one, other in zip(eager, captured, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)

    def test_a_state_that_is_loaded_reaches_the_graph(self):
        """Put back to the start, and to a later state: the replays have to go on from there."""
        conditions = Conditions("cudagraph", "nadam")
        model = tiny_mlp()
        step = methods.prepare(methods.find("backprop"), model, cross_entropy, 3, conditions)
        assert step.optimizer is not None
        states, weights = [], []
        for batch in batches(3):
            states.append(copy.deepcopy((model.state_dict(), step.optimizer.state_dict())))
            step(batch, 0.01)
            weights.append(flat(list(model.parameters())).detach().clone())
        for index in (1, 0, 2):
            model.load_state_dict(states[index][0])
            step.optimizer.load_state_dict(states[index][1])
            step(batches(3)[index], 0.01)
            torch.testing.assert_close(flat(list(model.parameters())).detach(), weights[index])

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_a_warm_up_is_put_back_in_the_graphs_own_tensors(self, optimizer):
        model = tiny_mlp()
        conditions = Conditions("cudagraph", optimizer)
        step = methods.prepare(methods.find("backprop"), model, cross_entropy, 3, conditions)
        beginning = Beginning(model, step)
        for batch in batches(3):
            step(batch, 0.01)
        beginning.put_back()
        for batch, wanted in zip(
            batches(3), trained("backprop", Conditions(optimizer=optimizer)), strict=False
        ):
            step(batch, 0.01)
            torch.testing.assert_close(
                flat(list(model.parameters())).detach(), wanted[1:], rtol=1e-4, atol=1e-6
            )

    def test_two_learning_rates_share_one_state(self):
        found = []
        for conditions in (Conditions(optimizer="adam"), Conditions("cudagraph", "adam")):
            model = tiny_mlp()
            step = methods.prepare(methods.find("backprop"), model, cross_entropy, 3, conditions)
            for batch, rate in zip(batches(4), (0.01, 0.02, 0.01, 0.02), strict=True):
                step(batch, rate)
            found.append(flat(list(model.parameters())).detach())
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize(
        ("optimizer", "said"),
        [
            ("sgd:momentum=0.9,dampening=0.5", "dampening"),
            ("adagrad:lr_decay=1e-4", "adagrad with lr_decay: it counts its steps on the host"),
            ("adafactor", "adafactor: it counts its steps on the host"),
        ],
    )
    def test_an_optimiser_whose_steps_the_host_tells_apart_is_refused_in_a_line(self, optimizer, said):
        """A replay would repeat the first step's rate, which the oracle's two replays hardly show."""
        spec, conditions = methods.find("backprop:update=foreach"), Conditions("cudagraph", optimizer)
        with pytest.raises(UsageError, match=said):
            methods.prepare(spec, tiny_mlp(), cross_entropy, 3, conditions)

    def test_the_stream_of_the_caller_is_current_again_where_a_capture_raises(self, cuda):
        def waits(x: torch.Tensor) -> float:
            return float(x.sum())

        with pytest.raises(AssertionError, match="waits for the device"):
            Graph(waits, list)(torch.ones(3))
        assert cuda.stream_now == "main"

    def test_a_capture_that_failed_gives_its_pool_back_and_says_what_ended_it(self, cuda, monkeypatch):
        """As torch 2.11's, which goes on to allocate from the pool, and complains of its own end."""
        ended: list[object] = []

        @contextmanager
        def capturing(graph, pool, stream):
            try:
                yield
            except Exception:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

        monkeypatch.setattr(torch.cuda, "graph", capturing)
        monkeypatch.setattr(
            torch._C, "_cuda_endAllocateToPool", lambda *given: ended.append(given), raising=False
        )

        def wrong(x: torch.Tensor) -> torch.Tensor:
            calls.append(x)
            if len(calls) > WARM_UP_CALLS:
                raise ValueError("what is wrong")
            return x

        calls: list[torch.Tensor] = []
        with pytest.raises(ValueError, match="what is wrong"):
            Graph(wrong, list)(torch.ones(3))
        assert ended == [(None, cuda.graph_pool_handle())]

    def test_the_devices_generator_draws_on_as_before_where_a_capture_raises(self):
        before = torch.get_rng_state()
        with pytest.raises(AssertionError, match="waits for the device"):
            Graph(lambda x: float(x.sum()), list)(torch.ones(3))
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_generator_that_refuses_to_draw_after_that_gets_a_copy_of_its_state(self, monkeypatch):
        """As torch 2.11's, for which a capture that failed goes on for ever."""

        def refuses(self):
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

        given: list[str] = []
        generator = SimpleNamespace(
            get_state=lambda: "old", clone_state=lambda: "copy", graphsafe_set_state=given.append
        )
        monkeypatch.setattr(torch.cuda, "default_generators", {None: generator})
        monkeypatch.setattr(torch.Tensor, "normal_", refuses)
        with pytest.raises(AssertionError, match="waits for the device"):
            Graph(lambda x: float(x.sum()), list)(torch.ones(3))
        assert given == ["copy"]

    def test_a_living_graph_has_its_stream_to_itself_and_a_dropped_ones_is_used_again(self, cuda):
        """Where a graph is destroyed, torch frees the workspace that cuBLAS has for its stream."""
        on: list[str] = []

        def doubled(x: torch.Tensor) -> torch.Tensor:
            on.append(cuda.stream_now)
            return 2 * x

        def captured() -> Graph:
            graph = Graph(doubled, list)
            torch.testing.assert_close(graph(torch.ones(3)), torch.full((3,), 2.0))
            return graph

        first, _second = captured(), captured()
        del first
        _third = captured()
        assert on == [name for name in ("aside 1", "aside 2", "aside 1") for _ in range(WARM_UP_CALLS + 1)]
        waits = ("aside {} waits for main", "main waits for aside {}")
        assert cuda.calls == [wait.format(number) for number in (1, 2, 1) for wait in waits]

    def test_what_was_dropped_is_destroyed_before_a_capture_and_not_within(self, cuda):
        """Steps that were dropped refer to themselves, and torch destroys no graph while it captures one."""

        class Dropped:
            def __init__(self) -> None:
                self.itself = self

        seen: list[object] = []

        def doubled(x: torch.Tensor) -> torch.Tensor:
            seen.append(dropped())
            return 2 * x

        gc.disable()
        try:
            dropped = weakref.ref(Dropped())
            Graph(doubled, list)(torch.ones(3))
        finally:
            gc.enable()
        assert seen == [None] * (WARM_UP_CALLS + 1)


class Stuck(SimulatedGraph):
    """A graph that works once: its later replays do nothing, as on a stream of another device."""

    def replay(self) -> None:
        if not self.replays:
            super().replay()
        self.replays += 1


class Stale(SimulatedGraph):
    """A graph whose generators were not registered: every replay draws what the first one drew."""

    def replay(self) -> None:
        before = [g.get_state() for g in self.generators]
        super().replay()
        for generator, state in zip(self.generators, before, strict=True):
            generator.set_state(state)


@pytest.mark.parametrize("spec", ["backprop", "forward"])
def test_the_oracle_sees_that_a_second_replay_does_nothing(cuda, monkeypatch, spec):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stuck)
    with pytest.raises(WrongStepError, match="off by a share"):
        check_step(methods.find(spec), tiny_mlp(), cross_entropy, tiny_batch(), 5, CAPTURED)


def test_the_oracle_sees_that_replays_draw_the_same(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stale)
    with pytest.raises(WrongStepError, match="same tangents"):
        check_step(methods.find("forward"), tiny_mlp(), cross_entropy, tiny_batch(), 5, CAPTURED)


def test_a_base_that_repeats_its_first_batch_is_not_timed(cuda, monkeypatch):
    model = tiny_mlp()
    captured = Graph(lambda x, y: cross_entropy(model(x), y).detach(), list)
    check_base(captured, model, cross_entropy, batches(3), 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stuck)
    with pytest.raises(WrongStepError, match="the base's loss"):
        check_base(
            Graph(lambda x, y: cross_entropy(model(x), y).detach(), list), model, cross_entropy, batches(3), 0
        )


def test_a_base_that_is_wrong_ends_the_timing_with_one_line(cuda, monkeypatch):
    """And no traceback: the runner puts the line into every method's row."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stuck)
    matched = tiny_matched()
    problem = Problem(matched.model, matched.loss, matched.batches(3), 0, lambda _: CAPTURED)
    with pytest.raises(
        UsageError, match=r"the time of every step is divided, cannot be timed.*off by a share"
    ):
        time_methods(
            problem, ("backprop",), "backprop", process=0, seconds=0.01, report=lambda *_a, **_k: None
        )


def test_dropout_draws_on_from_replay_to_replay(cuda):
    """As the eager base does: other units at every evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5))
    graph = Graph(lambda x: model(x), list)
    one, other = graph(torch.ones(64)).clone(), graph(torch.ones(64)).clone()
    assert not torch.equal(one, other)
    assert oracle.norm([one]) > 0
