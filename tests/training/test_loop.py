"""The training loop on a clock of its own."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from itertools import pairwise

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.training import loop
from fgbench.training.batches import BatchOrder
from fgbench.training.decay import Exponential
from fgbench.training.loop import (
    EVALUATION_BATCH,
    STEPS_PER_READING,
    Budget,
    Grid,
    Point,
    Rate,
    Trainee,
    evaluate,
    take_turns,
)
from tests.builders import FakeClock, TickingClock, cross_entropy, tiny_data, tiny_mlp


def trainee(spec: str = "backprop", rate: float = 0.05, seed: int = 0, clock=None, step=None) -> Trainee:
    model = tiny_mlp(dtype=torch.float32)
    step = step or methods.find(spec).prepare(model, cross_entropy, seed)
    clock = clock or TickingClock()
    return Trainee(model, step, cross_entropy, Rate(rate), tiny_data(), BatchOrder(40, 8, seed), clock)


def curves(
    trainees: dict[str, Trainee], every: int = 5, seconds: float = 4.0, seed: int = 0
) -> dict[str, list]:
    found: dict[str, list] = {name: [] for name in trainees}
    for name, point in take_turns(trainees, Grid(every, every), seconds, random.Random(seed)):
        found[name].append(point)
    return found


def timeless(points: list[Point]) -> list[Point]:
    return [dataclasses.replace(p, evaluation_seconds=0.0) for p in points]


class Raising:
    parameters = ()

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, batch, learning_rate):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more")
        return torch.tensor(1.0)


def test_the_grid_is_the_same_for_all_and_begins_at_0():
    slow = TickingClock(seconds_per_reading=2.0)
    found = curves({"a": trainee(), "b": trainee("forward", clock=slow)})
    assert [p.iteration for p in found["a"]] == [0, 5, 10, 15, 20]
    assert [p.iteration for p in found["b"]] == [0, 5, 10]


def test_a_grid_is_close_at_the_start_then_even():
    grid, at, steps = Grid(40, 1), 0, [0]
    while at < 600:
        at += grid.after(at)
        steps.append(at)
    gaps = [b - a for a, b in pairwise(steps)]
    assert gaps[:10] == [1] * 10
    assert all(gap <= max(1, a / 10) for a, gap in zip(steps, gaps, strict=False)), (
        "a tenth of the steps so far"
    )
    assert gaps == sorted(gaps)
    assert set(gaps[-3:]) == {40}
    assert grid.close_points() == gaps.index(40)


@pytest.mark.parametrize("grid", [Grid(7, 7), Grid(40, 8), Grid(3, 3), Grid(100)])
def test_the_first_distance_is_as_asked_for_and_the_last_is_the_even_one(grid):
    assert grid.after(0) == grid.first
    assert grid.after(10**6) == grid.every


def test_a_run_ends_at_the_first_evaluation_past_its_seconds():
    points = curves({"a": trainee()}, seconds=3.5)["a"]
    assert [p.train_seconds for p in points] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_all_start_from_the_same_loss():
    found = curves({"a": trainee(), "b": trainee("forward")})
    assert found["a"][0].validation_loss == found["b"][0].validation_loss
    assert math.isnan(found["a"][0].train_loss)
    assert found["a"][0].train_seconds == 0


def test_only_steps_are_on_the_clock():
    class Watching(TickingClock):
        inside = False

        def time(self, block):
            self.inside = True
            reading = super().time(block)
            self.inside = False
            return reading

    clock = Watching()
    one = trainee(clock=clock)
    seen: dict[str, set[bool]] = {"training": set(), "evaluation": set(), "loading": set()}
    one.model.register_forward_pre_hook(
        lambda module, _inputs: seen["training" if module.training else "evaluation"].add(clock.inside)
    )
    load = one.order.batches

    class Order:
        def batches(self, *args):
            seen["loading"].add(clock.inside)
            return load(*args)

    one.order = Order()  # type: ignore[assignment]
    curves({"a": one})
    assert seen == {"training": {True}, "evaluation": {False}, "loading": {False}}


def test_a_long_stretch_is_read_in_pieces_and_counted_whole():
    clock = TickingClock()
    one = trainee(clock=clock)
    one.advance(2 * STEPS_PER_READING + 1)
    assert (one.iteration, clock.readings, one.train_seconds) == (2 * STEPS_PER_READING + 1, 3, 3.0)


def test_batches_of_a_stretch_are_those_of_the_order():
    seen: list[torch.Tensor] = []

    class Recording:
        parameters = ()

        def __call__(self, batch, learning_rate):
            seen.append(batch[0])
            return torch.tensor(1.0)

    one = trainee(step=Recording())
    one.advance(3)
    one.advance(STEPS_PER_READING + 2)
    wanted = [x for x, _ in one.order.batches(one.data, 0, len(seen))]
    assert len(seen) == STEPS_PER_READING + 5
    assert all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))


@pytest.mark.parametrize("spec", ["backprop", "forward", "forward:structure=rademacher"])
def test_same_seed_gives_the_same_curve_bit_for_bit_whoever_else_trains(spec):
    alone = curves({spec: trainee(spec)})[spec]
    again = curves({spec: trainee(spec), "other": trainee("forward", seed=5)}, seed=9)[spec]
    nan_free = [dataclasses.replace(p, train_loss=0.0) if p.iteration == 0 else p for p in timeless(alone)]
    again = [dataclasses.replace(p, train_loss=0.0) if p.iteration == 0 else p for p in timeless(again)]
    assert nan_free == again


def test_the_learning_rate_decays_as_in_the_first_paper():
    seen: list[float] = []

    class Recording:
        parameters = ()

        def __call__(self, batch, learning_rate):
            seen.append(learning_rate)
            return torch.tensor(1.0)

    one = trainee(step=Recording())
    one.rate = Rate(2e-4, Exponential(1e-4))
    one.advance(3)
    one.advance(STEPS_PER_READING + 1)
    assert seen == [2e-4 * math.exp(-1e-4 * i) for i in range(STEPS_PER_READING + 4)]


def test_a_run_ends_at_its_last_step_with_an_evaluation_there():
    one = trainee()
    one.most_steps = 12
    assert [p.iteration for p in curves({"a": one}, seconds=math.inf)["a"]] == [0, 5, 10, 12]


@pytest.mark.parametrize("most_steps", [math.inf, 12])
def test_further_evaluations_follow_the_end_of_the_budget_and_are_marked(most_steps):
    one = trainee()
    one.most_steps = most_steps
    turns = take_turns({"a": one}, Grid(5, 5), 2.5, random.Random(0), further=2)
    found = [(point.iteration, point.past_budget) for _, point in turns]
    end = min(15, most_steps)
    assert found == [(0, False), (5, False), (10, False), (end, False), (end + 5, True), (end + 10, True)]


def test_a_run_cut_off_past_its_budget_goes_on_to_as_many_further_evaluations():
    one, other, states = trainee(), trainee(), []

    def after_turn(_alive: object) -> None:
        states.append(copy.deepcopy(one.state()))

    turns = take_turns({"a": one}, Grid(5, 5), 1.5, random.Random(0), further=2, after_turn=after_turn)
    assert [point.past_budget for _, point in turns] == [False, False, False, True, True]
    other.restore(states[3])
    rest = take_turns({"a": other}, Grid(5, 5), 1.5, random.Random(0), further=2, begun=True)
    assert [(point.iteration, point.past_budget) for _, point in rest] == [(20, True)]


def test_a_further_evaluation_does_not_wait_for_a_lower_loss(monkeypatch):
    one = trainee()
    one.most_steps, one.patience = 10, 10
    losses_scripted(one, [3.0, 1.0, 2.0, 2.0, 2.0], monkeypatch)
    turns = take_turns({"a": one}, Grid(5, 5), math.inf, random.Random(0), further=2)
    assert [point.iteration for _, point in turns] == [0, 5, 10, 15, 20]


def losses_scripted(one: Trainee, losses: list[float], monkeypatch) -> None:
    """What its evaluations say, one after the other."""
    supply = iter(losses)
    monkeypatch.setattr(loop, "evaluate", lambda model, loss, data: (next(supply), 0.5))


def test_a_run_ends_when_its_loss_was_not_lower_for_so_many_steps(monkeypatch):
    one = trainee()
    one.patience = 10
    losses_scripted(one, [3.0, 2.0, 2.5, 1.5, 1.5, 1.6, 9.9], monkeypatch)
    points = curves({"a": one}, seconds=math.inf)["a"]
    assert [p.iteration for p in points] == [0, 5, 10, 15, 20, 25], "as low is no lower"


def test_patience_goes_on_counting_where_a_run_was_cut_off(monkeypatch):
    one, other = trainee(), trainee()
    losses_scripted(one, [3.0, 1.0, 2.0], monkeypatch)
    for steps in (0, 5, 5):
        one.advance(steps)
        one.evaluate()
    other.restore(one.state())
    other.patience = 10
    losses_scripted(other, [1.5, 1.4], monkeypatch)
    turns = take_turns({"a": other}, Grid(5, 5), math.inf, random.Random(0), begun=True)
    assert [point.iteration for _, point in turns] == [15]


@pytest.mark.parametrize(
    ("budget", "queries", "steps"),
    [
        (Budget(1.0), 3, math.inf),
        (Budget(1.0, iterations=7), 3, 7),
        (Budget(1.0, queries=7), 3, 2),
        (Budget(1.0, iterations=5, queries=100), 3, 5),
        (Budget(1.0, queries=2), 17, 1),
    ],
)
def test_a_budget_leaves_a_method_so_many_steps(budget, queries, steps):
    assert budget.steps(queries) == steps


@pytest.mark.parametrize(
    ("seconds", "iteration", "most_steps", "share"),
    [(1.0, 5, math.inf, 0.25), (1.0, 5, 10, 0.5), (9.0, 5, 10, 1.0), (0.0, 0, 1, 0.0)],
)
def test_what_is_spent_of_a_budget_goes_by_the_limit_that_is_nearest(seconds, iteration, most_steps, share):
    assert Budget(4.0).spent(seconds, iteration, most_steps) == share


def test_a_part_of_a_budget_is_a_part_of_all_of_it():
    assert Budget(10.0, 11, 20).share(0.5) == Budget(5.0, 6, 10)
    assert Budget(10.0).share(0.2) == Budget(2.0)


def test_loss_that_is_no_longer_finite_ends_the_run_with_the_point_that_shows_it():
    found = curves({"a": trainee(rate=math.inf), "b": trainee()})
    assert not found["a"][-1].finite
    assert all(p.finite for p in found["a"][:-1])
    assert len(found["a"]) < len(found["b"]) == 5


@pytest.mark.parametrize(
    ("iteration", "train", "validation", "finite"),
    [(0, math.nan, 1.0, True), (5, math.nan, 1.0, False), (5, 1.0, math.inf, False), (5, 1.0, 1.0, True)],
)
def test_a_point_is_finite_where_both_losses_are_once_training_began(iteration, train, validation, finite):
    assert Point(iteration, 1.0, 0.0, train, validation, 0.5).finite == finite


def test_one_that_raises_ends_and_the_others_go_on():
    found = curves({"a": trainee(step=Raising(after=7)), "b": trainee()})
    assert [type(p).__name__ for p in found["a"]] == ["Point", "Point", "RuntimeError"]
    assert [p.iteration for p in found["b"]] == [0, 5, 10, 15, 20]


def test_ctrl_c_is_no_failure_of_a_method():
    class Interrupted:
        parameters = ()

        def __call__(self, batch, learning_rate):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curves({"a": trainee(step=Interrupted())})


def test_turns_are_in_random_order():
    names = [name for name, _ in take_turns({n: trainee() for n in "ab"}, Grid(1), 20.0, random.Random(0))]
    firsts = {names[i] for i in range(0, len(names), 2)}
    assert firsts == {"a", "b"}


def test_evaluation_is_the_mean_over_the_whole_held_out_set_in_evaluation_mode():
    data = tiny_data(held=EVALUATION_BATCH + 7)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(16), nn.Linear(16, 3)).train()
    loss, accuracy = evaluate(model, cross_entropy, data)
    assert model.training
    model.eval()
    output = model(data.validation_x)
    assert loss == pytest.approx(float(cross_entropy(output, data.validation_y).detach()), rel=1e-6)
    assert accuracy == float((output.argmax(1) == data.validation_y).double().mean())
    assert int(model[2].num_batches_tracked) == 0


class DearAtFirst:
    """A step that costs a second, and a hundred at its first call."""

    parameters, optimizer = (), None

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.calls = clock, 0

    def __call__(self, batch, learning_rate):
        self.clock.now += 1.0 if self.calls else 100.0
        self.calls += 1
        return torch.tensor(1.0)

    def get_ready(self, batch):
        pass

    def generators(self):
        return []

    def state(self):
        return {}

    def load_state(self, state):
        pass


def test_after_a_warm_up_the_first_stretch_costs_what_the_second_does():
    clock = FakeClock()
    one = trainee(clock=clock, step=DearAtFirst(clock))
    one.warm_up()
    assert one.step.calls > 0, "the very step that is trained"
    seconds = [p.train_seconds for p in curves({"a": one}, every=5, seconds=15.0)["a"]]
    assert seconds == [0.0, 5.0, 10.0, 15.0]


def test_a_warm_up_goes_beyond_what_the_budget_leaves_and_back():
    one = trainee("forward")
    one.most_steps = 1
    before = [p.detach().clone() for p in one.model.parameters()]
    one.warm_up()
    assert (one.iteration, one.train_seconds, one.evaluation_seconds, one.most_steps) == (0, 0.0, 0.0, 1)
    assert math.isnan(one.evaluate().train_loss)
    assert all(torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))


def test_a_text_is_evaluated_token_by_token():
    """Mean loss and accuracy over all tokens, in parts that hold few of them."""
    from fgbench.datasets import Dataset
    from fgbench.training import loop
    from fgbench.training.losses import over_tokens

    torch.manual_seed(0)
    x, y = torch.randint(9, (2, 7, 4))
    model = nn.Embedding(9, 9).double()
    data = Dataset(x, y, x, y, classes=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "EVALUATION_PREDICTIONS", 8)
        loss, accuracy = loop.evaluate(model, over_tokens, data)
    log_p = model(x).detach().log_softmax(-1)
    assert loss == pytest.approx(float(-log_p.gather(2, y.unsqueeze(2)).mean()))
    assert accuracy == pytest.approx(float((model(x).argmax(-1) == y).double().mean()))
    assert 0 < accuracy < 1
