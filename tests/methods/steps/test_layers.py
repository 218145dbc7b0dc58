"""Layers drawn one at a time: how often, with what weight, and what the others are spared."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.measurement.memory import peak_of_step
from fgbench.methods import Conditions
from fgbench.methods.steps import layers, oracle
from fgbench.methods.steps.layers import Draw, Sampler, Unit, costs, units_of
from fgbench.pushforward import engine
from fgbench.running.matched import weights_hash
from fgbench.running.messages import Message
from fgbench.running.phases.memory import PeakFound, measure_memory
from tests.builders import (
    cross_entropy,
    flat,
    reverse_gradient,
    tiny_batch,
    tiny_matched,
    tiny_mlp,
    updates,
)

DRAWS = 8_000
ONE = "forward:layers=one"


def sampler(sizes, count=1, sampling="size", floor=0.1, bound=0.0, seed=0) -> Sampler:
    units = [Unit(str(i), (f"{i}.weight",), size) for i, size in enumerate(sizes)]
    return Sampler(units, count, SimpleNamespace(sampling=sampling, floor=floor, bound=bound), seed)


def three_layers() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    return model.double().train()


# ---- which layers there are


def test_a_layer_is_a_modules_parameters_and_the_norms_that_follow():
    model = nn.Sequential(
        nn.LayerNorm(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.LayerNorm(2)
    )
    model[4].bias.requires_grad_(False)
    found = units_of(model)
    assert [u.names for u in found] == [
        ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"),
        ("4.weight", "5.weight", "5.bias"),
    ]
    assert [u.size for u in found] == [8 + 20 + 8, 8 + 4]


def test_costs_are_an_evaluation_and_what_follows_the_layer():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 16))
    assert costs(model, torch.zeros(2, 8), units_of(model)) == pytest.approx([2.0, 1.75, 1.5])
    assert not any(m._forward_pre_hooks for m in model.modules())


# ---- how often each is drawn


@pytest.mark.parametrize("sampling", ["size", "uniform"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_layer_is_drawn_as_often_as_its_probability_says(sampling, count):
    drawing = sampler([50, 1, 30, 19], count, sampling)
    wanted = [0.25] * 4 if sampling == "uniform" else [0.5, 0.01, 0.3, 0.19]
    assert drawing.probabilities == pytest.approx(wanted)
    found = Counter(unit for _ in range(DRAWS) for unit in drawing.draw().units)
    for unit, p in enumerate(wanted):
        # Of independent draws; those of a cycle are spread more evenly. A false alarm in 16 000.
        error = math.sqrt(count * p * (1 - p) / DRAWS)
        assert abs(found[unit] / DRAWS - count * p) < 4 * error


def test_a_cycle_of_uniform_draws_has_every_layer_once():
    drawing = sampler([3, 1, 4, 1, 5], sampling="uniform")
    assert drawing.cycle == 5
    cycles = [[drawing.draw().units[0] for _ in range(5)] for _ in range(20)]
    assert all(sorted(cycle) == [0, 1, 2, 3, 4] for cycle in cycles)
    assert len(set(map(tuple, cycles))) > 10, "in another order each time"


def test_several_tangents_are_in_different_layers_where_none_is_due_twice():
    drawing = sampler([1] * 7, 3, "uniform")
    for _ in range(200):
        drawn = drawing.draw()
        assert len(set(drawn.units)) == 3
        assert list(drawn.units) == sorted(drawn.units)
        assert drawn.probabilities == pytest.approx([1 / 7] * 3)


def test_a_layer_is_drawn_as_many_times_as_its_share_rounded_up_or_down():
    drawing = sampler([70, 20, 10], 4)
    counts = {unit: {drawing.draw().units.count(unit) for _ in range(300)} for unit in range(3)}
    assert counts == {0: {2, 3}, 1: {0, 1}, 2: {0, 1}}
    drawn = Draw((0, 0, 2), (0.7, 0.7, 0.1))
    assert drawn.rows == {0: range(2), 2: range(2, 3)}
    assert drawn.weights(torch.zeros(3)).tolist() == pytest.approx([1 / 0.7, 1 / 0.7, 10.0])


@pytest.mark.parametrize("sampling", ["size", "adaptive"])
def test_a_bound_holds_for_every_weight_and_is_no_lower_than_uniform(sampling):
    assert max(1 / p for p in sampler([1000, 1, 10], sampling=sampling, bound=20).probabilities) <= 20 * (
        1 + 1e-12
    )
    assert sampler([1000, 1, 10], bound=20).probabilities[1] == pytest.approx(0.05)
    assert sampler([1000, 1, 10], bound=2).probabilities == pytest.approx([1 / 3] * 3)


def test_the_same_seed_draws_the_same_layers_and_a_state_goes_on():
    one, other, third = (sampler([5, 3, 2], seed=s) for s in (1, 1, 2))
    first = [one.draw().units for _ in range(30)]
    assert first == [other.draw().units for _ in range(30)]
    assert first != [third.draw().units for _ in range(30)]
    third.load_state(one.state())
    assert [third.draw() for _ in range(30)] == [one.draw() for _ in range(30)]


@pytest.mark.parametrize("sampling", ["size", "uniform"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_outcomes_that_are_compiled_are_all_that_are_drawn(sampling, count):
    drawing = sampler([50, 10, 25, 15], count, sampling)
    outcomes = {d.units for d in drawing.outcomes()}
    assert {drawing.draw().units for _ in range(5000)} == outcomes
    assert len(outcomes) <= 4


# ---- adaptive probabilities


def learned(drawing: Sampler, squares: list[float], cycles: int) -> None:
    for _ in range(cycles * drawing.cycle):
        (unit,) = drawing.draw().units
        drawing.note([unit], torch.tensor([squares[unit]], dtype=torch.float64))


def test_adaptive_probabilities_become_root_of_mean_square_over_cost_with_a_floor():
    drawing = sampler([1, 1, 1], sampling="adaptive")
    drawing.costs = [4.0, 1.0, 1.0]
    learned(drawing, [16.0, 4.0, 1.0], 200)
    shares = [2 / 5, 2 / 5, 1 / 5]
    assert drawing.probabilities == pytest.approx([0.9 * s + 0.1 / 3 for s in shares])


def test_probabilities_change_between_cycles_alone_and_a_cycle_late():
    """Within a cycle they would depend on which layers are left; the device may be behind by the last."""
    drawing = sampler([1, 1, 1, 1], sampling="adaptive")
    by_cycle = []
    for _ in range(4):
        within = set()
        for _ in range(drawing.cycle):
            (unit,) = drawing.draw().units
            within.add(tuple(drawing.probabilities))
            drawing.note([unit], torch.tensor([float((1 + unit) ** 2)]))
        assert len(within) == 1
        by_cycle.append(within.pop())
    assert by_cycle[0] == by_cycle[1] == (0.25,) * 4, "the first cycle is looked at after the second"
    assert by_cycle[2] == pytest.approx([0.9 * s / 10 + 0.025 for s in (1, 2, 3, 4)])


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_squares_that_say_nothing_leave_probabilities_by_size(bad):
    drawing = sampler([3, 1], sampling="adaptive")
    learned(drawing, [bad, bad], 5)
    assert drawing.probabilities == pytest.approx([0.9 * 0.75 + 0.05, 0.9 * 0.25 + 0.05])


@pytest.mark.parametrize("structure", ["rank-one", "activity"])
def test_adaptive_steps_learn_each_layers_second_moment(structure):
    """Running means over 3000 steps at the same weights, against the mean over fixed draws of that layer."""
    model, batch = three_layers(), tiny_batch()
    spec = f"{ONE},structure={structure}"
    step = methods.find(f"{spec},sampling=adaptive").prepare(model, cross_entropy, 1)
    list(updates(step, batch, 3000))
    assert all(count > 100 for count in step.sampler.seen)
    other = methods.find(spec).prepare(three_layers(), cross_entropy, 2)
    other.get_ready(batch)
    for unit in range(3):
        other.sampler.forced = Draw((unit,), (1.0,))
        mean = sum(float(u.square().sum()) for u in updates(other, batch, 1500)) / 1500
        assert step.sampler.means[unit] == pytest.approx(mean, rel=1.0), "to the order: its newest 20 count"
        assert step.sampler.means[unit] > 0


# ---- the estimate


@pytest.mark.parametrize(
    ("spec", "p"),
    [
        ("structure=rademacher", None),
        ("structure=rank-one", None),
        ("structure=sphere", None),
        ("structure=rademacher,sampling=uniform", [1 / 3] * 3),
        ("structure=rank-one,sampling=uniform", [1 / 3] * 3),
    ],
)
def test_second_moment_is_n_by_size_and_the_sum_over_layers_of_size_over_probability_else(spec, p):
    """E‖g‖² over 8 000 draws of the step itself, within 4 standard errors (a false alarm in 16 000)."""
    model, batch = three_layers(), tiny_batch()
    gradient = reverse_gradient(model, batch)
    own = [float(sum(g.square().sum() for g in gradient[i : i + 2])) for i in (0, 2, 4)]
    sizes = [16 * 6 + 6, 6 * 4 + 4, 4 * 3 + 3]
    wanted = sum(n * m / q for n, m, q in zip(sizes, own, p, strict=True)) if p else sum(sizes) * sum(own)
    step = methods.find(f"{ONE},{spec}").prepare(model, cross_entropy, 2)
    squares = []
    for _ in range(DRAWS):
        step.draw()
        squares.append(sum(float(e.square().sum()) for e in step.expected(gradient, model, batch)))
    moments = torch.tensor(squares, dtype=torch.float64)
    error = float(moments.std()) / math.sqrt(DRAWS)
    assert abs(float(moments.mean()) - wanted) < 4 * error
    assert error < 0.05 * wanted


def test_a_step_without_its_weights_is_stopped(monkeypatch):
    oracle.check_step(methods.find(ONE), three_layers(), cross_entropy, tiny_batch(), 1)
    monkeypatch.setattr(Draw, "weights", lambda self, like: 1.0)
    with pytest.raises(oracle.WrongStepError):
        oracle.check_step(methods.find(ONE), three_layers(), cross_entropy, tiny_batch(), 1)


# ---- what is spared


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "sgd:momentum=0.9,weight_decay=0.1"])
@pytest.mark.parametrize("spec", [ONE, f"{ONE},structure=activity", "spsa:layers=one"])
def test_layers_that_are_not_drawn_stay_bit_for_bit_and_so_does_the_optimisers_state(spec, optimizer):
    model, batch = three_layers(), tiny_batch()
    step = methods.find(spec).prepare(model, cross_entropy, 0, Conditions(optimizer=optimizer))
    step.get_ready(batch)
    step.sampler.forced = Draw((1,), (0.2,))
    before = [p.detach().clone() for p in step.parameters]
    for _ in range(3):
        step(batch, 0.1)
    same = [torch.equal(b, p) for b, p in zip(before, step.parameters, strict=True)]
    assert same == [True, True, False, False, True, True]
    assert step.left_alone == {0, 1, 4, 5}
    if step.optimizer is not None:
        assert [i for i, p in enumerate(step.parameters) if step.optimizer.state.get(p)] == [2, 3]


class _Rows(TorchDispatchMode):
    """The rows of products with matrices, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.addmm, torch.ops.aten.mm) and out.shape[1] > 1:
            self.rows.append(out.shape[0])
        return out


@pytest.mark.parametrize("structure", ["rank-one", "activity"])
def test_before_the_drawn_layer_a_pass_is_plain_evaluation(structure):
    model, batch = three_layers(), tiny_batch()
    step = methods.find(f"{ONE},structure={structure}").prepare(model, cross_entropy, 0)
    step.get_ready(batch)
    found = {}
    for unit in (0, 2):
        step.sampler.forced = Draw((unit,), (1.0,))
        step(batch, 0.0)
        with _Rows() as seen:
            step.parts(batch, 0.0)["draw"]()
            step.parts(batch, 0.0)["forward"]()
        found[unit] = [rows for rows in seen.rows if rows >= len(batch[0])]
    assert found[2] == [6, 6, 6], "one evaluation; the tangent begins in the last layer"
    assert found[0] == [6, 12, 12]


@pytest.mark.parametrize("spec", [ONE, f"{ONE},structure=activity"])
def test_a_step_needs_memory_for_the_drawn_layers_tangents_alone(spec):
    width, depth = 256, 4

    def prepare():
        model = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        step = methods.find(spec).prepare(model, lambda output, _: output.square().mean(), 0)
        x = torch.randn(4, width)
        return lambda: step((x, x), 1e-6)

    layer = (width * width + width) * 4
    peak = peak_of_step(prepare, torch.device("cpu")).allocated
    assert depth * layer < peak < (depth + 2.2) * layer, peak / layer


def test_the_memory_phase_takes_the_worst_layer():
    """The tangent of the largest layer is in the peak, however seldom that is drawn."""
    kinds = {}
    for spec in (f"{ONE},sampling=uniform", "forward"):
        found: list[Message] = []
        measure_memory(tiny_matched(depth=3, width=64), (spec,), found.append)
        rows = {(peak.method, peak.kind): peak.bytes for peak in found if isinstance(peak, PeakFound)}
        kinds[spec] = rows[spec, "peak_gradients_and_tangents"]
    largest = (64 * 64 + 64) * 4
    assert largest <= kinds[f"{ONE},sampling=uniform"] < 2 * largest < kinds["forward"]


# ---- execution modes


def test_each_layer_has_a_program_of_its_own_before_the_first_step(monkeypatch):
    made = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, _: made.append(graph) or graph)
    spec, conditions = f"{ONE},structure=rank-one", Conditions(execution="compile")
    oracle.check_step(methods.find(spec), three_layers(), cross_entropy, tiny_batch(), 1, conditions)
    made.clear()
    model, plain = three_layers(), three_layers()
    step = methods.find(spec).prepare(model, cross_entropy, 3, conditions)
    step.get_ready(tiny_batch())
    assert weights_hash(model) == weights_hash(plain), "compiling moves nothing"
    programs = len(made)
    assert programs == 3 + 3, "of passes by layer, of updates by shape"
    other = methods.find(spec).prepare(plain, cross_entropy, 3)
    for _ in range(12):
        step(tiny_batch(), 0.05)
        other(tiny_batch(), 0.05)
    assert len(made) == programs, "nothing is compiled later"
    assert float((flat(list(model.parameters())) - flat(list(plain.parameters()))).norm()) < 1e-12


@pytest.mark.parametrize("options", ["", ",tangents=3", ",sampling=adaptive"])
@pytest.mark.parametrize("structure", ["rank-one", "gaussian", "activity"])
def test_after_it_is_made_ready_no_layers_pass_is_recorded(structure, options, monkeypatch):
    """Recording is for the warm-up: a step that is timed finds the program of whatever layer it draws."""
    recorded = []
    really = engine.Record
    monkeypatch.setattr(engine, "Record", lambda: recorded.append(1) or really())
    model = three_layers().append(nn.Dropout(0.1)).append(nn.BatchNorm1d(3).double())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    step = methods.find(f"{ONE},structure={structure}{options}").prepare(model, cross_entropy, 0)
    generators = [generator.get_state() for generator in step.generators()]
    numbers = torch.get_rng_state()
    step.get_ready(tiny_batch())
    assert recorded
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(map(torch.equal, generators, (g.get_state() for g in step.generators())))
    recorded.clear()
    drawn = set()
    for _ in range(8 * len(step.sampler.units)):
        step(tiny_batch(), 0.0)
        drawn.update(step.drawn.units)
    assert drawn == set(range(len(step.sampler.units))), "else it would show nothing"
    assert not recorded


@pytest.mark.parametrize(
    ("spec", "execution", "said"),
    [
        (ONE, "cudagraph", "draws layers on the host"),
        (f"{ONE},structure=activity", "compile", "runs eagerly"),
        (f"{ONE},structure=activity", "cudagraph", "draws layers on the host"),
        (f"{ONE},sampling=adaptive,tangents=2", "compile", "cannot be compiled"),
    ],
)
def test_what_cannot_run_in_a_mode_is_refused_in_a_line(spec, execution, said):
    with pytest.raises(UsageError, match=said) as caught:
        methods.prepare(methods.find(spec), tiny_mlp(), cross_entropy, 0, Conditions(execution=execution))
    assert "\n" not in str(caught.value)


def test_shortest_and_longest_cycles_are_whole_rounds_of_the_layers():
    assert [sampler([1] * n, sampling="uniform").cycle for n in (1, 2, 3, 5, 16, 100)] == [
        4,
        4,
        6,
        5,
        16,
        layers.LONGEST_CYCLE,
    ]


def test_squares_are_waited_for_on_the_stream_that_copies_them(monkeypatch):
    """Of their own device, which in a caller's process need not be the current one."""
    recorded: list[str] = []
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=recorded.append))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")
    with FakeTensorMode():
        layers._Squares((0,), torch.empty(1, device="cuda:1"))
    assert recorded == ["current of cuda:1"]
