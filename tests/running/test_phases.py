"""The worker's phases in this process: what they report, and that a failing method is only that."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import LONGEST_DETAIL
from fgbench.methods.steps.cudagraph import Graph
from fgbench.running.arms import MAXIMUM_ROUNDS, Problem, fresh_copy, timed_rounds
from fgbench.running.choices import Choices
from fgbench.running.messages import Message, decode, encode
from fgbench.running.phases import cost
from fgbench.running.phases import tune as tune_phase
from fgbench.running.phases.alone import time_alone
from fgbench.running.phases.cost import measure_cost
from fgbench.running.phases.memory import measure_memory
from fgbench.running.phases.modes import find_modes
from fgbench.running.phases.time import MINIMUM_ROUNDS, time_methods
from fgbench.running.phases.train import train
from fgbench.running.phases.tune import tune
from fgbench.running.reporting import UnusableDeviceError, blamed, failures_reported, report_failure
from fgbench.running.trainees import Protocol
from fgbench.training import loop
from fgbench.training.choice import Goal
from fgbench.training.loop import STRETCH, Budget, Grid, Point, Trainee
from fgbench.training.pacing import JUDGED_POINTS, LEAST_POINTS, POINTS, Pace, evaluation_grid, short_grid
from fgbench.training.search import TRIAL_SHARE
from fgbench.training.target import FURTHER
from tests.builders import cross_entropy, tiny_matched
from tests.simulated_cuda import simulate

SPECS = ("backprop", "forward")
KINDS = (
    "peak_parameters",
    "peak_optimizer_state",
    "peak_gradients_and_tangents",
    "peak_activations_and_temporaries",
)


class Reports:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: Message) -> None:
        there = decode(encode(event), [type(event)])  # it has to go through a pipe
        assert repr(there) == repr(event), "repr: NaN is not itself"
        self.events.append((type(event).__name__, asdict(there)))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.events if name == event]


@dataclass(frozen=True)
class Breaking(methods.Method):
    """A method that fails: when it is prepared, or in its step."""

    error: Exception
    in_step: bool = True
    queries = 1
    summary = source = "fails on purpose"

    def prepare(self, model, loss, seed, conditions=None):
        if not self.in_step:
            raise self.error
        step = methods.find("backprop").prepare(model, loss, seed)

        def fail(batch, learning_rate):
            raise self.error

        step.parts = fail
        return step


@pytest.fixture
def breaking(monkeypatch):
    """Registers `broken`, which fails as told."""
    really = methods.find

    def install(error: Exception, in_step: bool = True) -> None:
        monkeypatch.setattr(
            methods, "find", lambda spec: Breaking(error, in_step) if spec == "broken" else really(spec)
        )

    return install


def problem() -> Problem:
    matched = tiny_matched()
    return Problem(matched.model, matched.loss, matched.batches(4), matched.seed)


@pytest.mark.usefixtures("short_blocks")
class TestTiming:
    def timed(self, specs=SPECS, seconds: float = 0.01) -> Reports:
        reports = Reports()
        time_methods(problem(), specs, "backprop", process=0, seconds=seconds, report=reports)
        return reports

    def test_base_methods_and_the_a_a_repeat_are_in_every_round(self):
        reports = self.timed()
        assert not reports.of("Failed")
        for facts in reports.of("Samples"):
            arms = sorted((s["role"], s["method"]) for s in facts["samples"])
            assert arms == [
                ("aa", "backprop"),
                ("base", "base"),
                ("method", "backprop"),
                ("method", "forward"),
            ]
            assert [s["position"] for s in facts["samples"]] == [0, 1, 2, 3]

    def test_while_reverse_mode_checks_a_step_it_is_blamed_and_not_the_method(self):
        reports, blames = Reports(), []

        def loss(output, target):
            value = cross_entropy(output, target)
            if value.requires_grad:
                value.register_hook(lambda _: blames.append(reports.of("Began")[-1]))
            return value

        time_methods(replace(problem(), loss=loss), ("forward",), "forward", 0, 0.01, reports)
        assert blames == [{"method": "forward", "checking": True}]
        assert [event["checking"] for event in reports.of("Began")] == [False, True, False, False]

    def test_rounds_are_announced_before_the_first_of_them_and_kept_to(self):
        reports = self.timed()
        names = [name for name, _ in reports.events]
        at = names.index("Rounds")
        (rounds,) = [facts["rounds"] for facts in reports.of("Rounds")]
        warm = [s["warm_up"] for n, facts in reports.events[:at] if n == "Samples" for s in facts["samples"]]
        after = [facts for name, facts in reports.events[at + 1 :] if name == "Samples"]
        measured = [s["warm_up"] for facts in after for s in facts["samples"]]
        assert all(warm)
        assert not any(measured)
        assert len(measured) == 4 * rounds
        assert MINIMUM_ROUNDS <= rounds <= MAXIMUM_ROUNDS
        assert rounds % 2 == 0

    def test_a_method_that_fails_is_reported_and_left_out(self, breaking):
        breaking(ValueError("no such luck"))
        reports = self.timed(("backprop", "broken"))
        assert reports.of("Failed") == [
            {"method": "broken", "status": "error", "detail": "ValueError: no such luck"}
        ]
        arms = {(s["role"], s["method"]) for facts in reports.of("Samples") for s in facts["samples"]}
        assert arms == {("base", "base"), ("method", "backprop"), ("aa", "backprop")}

    def test_a_wrong_method_is_not_timed(self, monkeypatch):
        from fgbench.methods.steps.pushforward import PushforwardStep

        right = PushforwardStep.expected
        monkeypatch.setattr(PushforwardStep, "expected", lambda self, *at: [2 * e for e in right(self, *at)])
        (failed,) = self.timed().of("Failed")
        assert (failed["method"], failed["status"]) == ("forward", "error")
        assert "not timed" in failed["detail"]

    def test_the_first_call_is_reported_and_what_the_wall_time_went_into(self):
        reports = self.timed()
        assert {f["method"] for f in reports.of("FirstCall")} == set(SPECS)
        (spent,) = reports.of("Spent")
        assert spent["wall"] == pytest.approx(spent["timed"] + spent["lead_in"] + spent["harness"])

    @pytest.mark.parametrize("spec", ["base", "forward"])
    def test_alone_there_is_nothing_between(self, spec):
        reports = Reports()
        time_alone(problem(), spec, 0, 0.01, reports)
        arms = {(s["role"], s["method"]) for facts in reports.of("Samples") for s in facts["samples"]}
        assert arms == {("alone", spec)}

    def test_alone_a_method_that_fails_is_reported(self, breaking):
        breaking(MemoryError("no room"), in_step=False)
        reports = Reports()
        time_alone(problem(), "broken", 0, 0.01, reports)
        assert reports.of("Failed")[0]["status"] == "oom"
        assert not reports.of("Samples")

    def modes(self, specs, modes=("eager",), optimizers=("sgd",)) -> list[dict[str, Any]]:
        reports = Reports()
        find_modes(problem(), specs, modes, optimizers, 0.05, reports)
        return reports.of("Mode")

    def test_the_base_and_every_method_are_timed_in_every_mode_and_what_one_refuses_is_said(
        self, monkeypatch
    ):
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which is quick
        specs = ("backprop:update=fused", "forward:structure=activity")
        modes = {(f["method"], f["execution"]): f for f in self.modes(specs, ("eager", "compile"))}
        assert set(modes) == {(m, e) for m in ("base", *specs) for e in ("eager", "compile")}
        refused = modes.pop(("forward:structure=activity", "compile"))
        assert refused["seconds"] is None
        assert "runs eagerly" in refused["detail"]
        assert all(f["seconds"] > 0 for f in modes.values())

    def test_every_update_of_backprop_is_timed_under_every_optimiser_and_nothing_that_has_no_choice(self):
        found = self.modes((*SPECS, "backprop:update=fused"), optimizers=("sgd", "adam"))
        assert all(f["seconds"] > 0 for f in found)
        assert [(f["method"], f["optimizer"], f["update"]) for f in found] == [
            *(("backprop", "sgd", u) for u in ("fused", "foreach", "direct", "in-backward")),
            *(("backprop", "adam", u) for u in ("fused", "foreach", "in-backward")),
        ]

    def test_the_ways_of_one_method_at_a_time_are_in_memory(self, monkeypatch):
        together: list[set[str]] = []

        def rounds(arms, *more):
            together.append({arm.key.method for arm in arms})
            return timed_rounds(arms, *more)

        monkeypatch.setattr("fgbench.running.phases.modes.timed_rounds", rounds)
        self.modes(("backprop", "backprop:checkpoint=true"))
        assert together == [{"backprop"}, {"backprop:checkpoint=true"}]

    def test_an_update_that_is_wrong_is_not_timed(self, monkeypatch):
        from fgbench.methods.backprop import DirectStep

        monkeypatch.setattr(DirectStep, "_update", lambda self, learning_rate: None)
        seconds = {f["update"]: f["seconds"] for f in self.modes(("backprop",))}
        assert seconds.pop("direct") is None
        assert all(seconds.values())

    def test_the_update_that_was_found_is_the_one_that_is_timed_measured_and_trained(self):
        from fgbench.methods.backprop import DirectStep

        matched = replace(tiny_matched(), choices=Choices(updates={"backprop": {"sgd": "direct"}}))
        assert matched.conditions_of("backprop").update == "direct"
        step = methods.prepare(
            methods.find("backprop"), matched.model, matched.loss, 0, matched.conditions_of("backprop")
        )
        assert isinstance(step, DirectStep)
        assert matched.conditions_of("forward").update == ""

    def test_where_no_mode_takes_anything_each_says_why(self, monkeypatch, breaking):
        def fails(problem: Problem) -> None:
            raise ValueError("no such luck")

        monkeypatch.setattr("fgbench.running.arms.base_step", fails)
        breaking(ValueError("nor such"))
        reports = Reports()
        find_modes(problem(), ("broken",), ("eager", "compile"), ("sgd",), 0.05, reports)
        assert {(f["method"], f["detail"]) for f in reports.of("Mode")} == {
            ("base", "ValueError: no such luck"),
            ("broken", "ValueError: nor such"),
        }

    def test_the_model_is_left_as_it_was(self):
        one = problem()
        before = [p.detach().clone() for p in one.model.parameters()]
        time_methods(one, SPECS, "backprop", process=0, seconds=0.01, report=Reports())
        assert all(torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))


class TestMemory:
    def test_the_model_the_base_and_every_method_are_reported(self):
        reports = Reports()
        matched = tiny_matched()
        measure_memory(matched, SPECS, reports)
        found = {(f["method"], f["kind"]): f["bytes"] for f in reports.of("PeakFound")}
        size = 4 * matched.facts().parameters
        assert found["base", "parameters"] == size
        kinds = ("peak_allocated", *KINDS)
        assert set(found) == {("base", "parameters"), *((m, k) for m in ("base", *SPECS) for k in kinds)}
        for method in ("base", *SPECS):
            assert found[method, "peak_allocated"] == sum(found[method, kind] for kind in KINDS)
            assert found[method, "peak_parameters"] == size

    def kinds(self, spec: str, **changes: Any) -> list[int]:
        reports = Reports()
        measure_memory(tiny_matched(**changes), (spec,), reports)
        found = {f["kind"]: f["bytes"] for f in reports.of("PeakFound") if f["method"] == spec}
        return [found[kind] for kind in KINDS]

    def test_kinds_of_an_mlp_are_those_counted_by_hand(self):
        batch, width, inputs, classes = 64, 256, 36, 4
        shape = {"depth": 2, "width": width, "batch": batch}
        size = 4 * (inputs * width + width + width**2 + width + width * classes + classes)
        # A layer's input and its output live at once; a tangent goes with each.
        layers = 2 * 4 * batch * width
        small = pytest.approx(0, abs=4 * batch * classes + 64)  # the loss's own: what the count leaves out
        assert self.kinds("base", **shape) == [size, 0, 0, layers]
        parameters, state, tangents, passing = self.kinds("forward", **shape)
        assert (parameters, state, tangents - size, passing - 2 * layers) == (size, 0, small, small)
        parameters, state, tangents, passing = self.kinds("forward:tangents=4,combine=mean", **shape)
        assert (parameters, state, tangents - 4 * size, passing - 5 * layers) == (size, 0, small, small)

    def test_a_gradient_of_one_layer_and_adams_state_are_counted_exactly(self):
        size = 4 * (36 * 4 + 4)
        parameters, state, gradients, _ = self.kinds("backprop", arch="logreg", optimizer="adam")
        assert (parameters, state) == (size, 2 * size + 2 * 4)  # two moments, and a step count a tensor
        assert gradients == pytest.approx(size, abs=64)

    @pytest.mark.parametrize("spec", ["forward:structure=rademacher", "forward:structure=activity", "dfa"])
    def test_under_an_optimiser_a_method_holds_one_gradient_at_a_time_as_backprop_does(self, spec):
        """Beside parameters, Adam's moments and tangents there is one gradient at its peak, not two."""
        shape = {"depth": 2, "width": 64, "batch": 4, "optimizer": "adam"}
        size = self.kinds("base", **shape)[0]
        parameters, state, results, passing = self.kinds(spec, **shape)
        tangents = size if spec.endswith("rademacher") else 0
        assert results + passing - tangents < 1.5 * size, "two gradients"
        backprop = sum(self.kinds("backprop:update=fused", **shape))
        assert parameters + state + results + passing - tangents < backprop + 0.5 * size

    def test_a_captured_step_is_measured_uncaptured(self, monkeypatch):
        """Its activations lie in the graph's pool: a replay allocates none."""
        simulate(monkeypatch)
        for spec in ("base", *SPECS):
            assert self.kinds(spec, execution="cudagraph") == self.kinds(spec)

    def test_a_method_that_fails_is_reported_and_the_next_measured(self, breaking):
        breaking(MemoryError("no room"), in_step=False)
        reports = Reports()
        measure_memory(tiny_matched(), ("broken", "backprop"), reports)
        assert reports.of("Failed") == [
            {"method": "broken", "status": "oom", "detail": "MemoryError: no room"}
        ]
        assert [f["method"] for f in reports.of("PeakFound")] == ["base", *["base"] * 5, *["backprop"] * 5]


class TestCost:
    def test_the_base_and_every_method_are_counted_and_the_floor_is_the_roofline(self):
        matched, reports = tiny_matched(depth=2, width=512, batch=32), Reports()
        problem = matched.problem()
        measure_cost(problem, SPECS, reports)
        found = {f["method"]: f for f in reports.of("Counted")}
        assert set(found) == {"base", *SPECS}
        assert found["base"]["flops"] == 2 * 32 * (36 * 512 + 512 * 512 + 512 * 4)
        for spec, facts in found.items():
            assert facts["floor_seconds"] == max(
                facts["flops"] / facts["flops_per_second"], facts["bytes"] / facts["bytes_per_second"]
            ), spec
        assert found["base"]["operations"] < found["backprop"]["operations"]

    def test_rates_of_a_moment_in_which_the_machine_was_slow_are_measured_again(self, monkeypatch):
        rates = iter([1e9, 4e9, 2e9, 1.0])  # the fourth would be one too many
        monkeypatch.setattr(cost, "product_rate", lambda *_: next(rates))
        monkeypatch.setattr(cost, "byte_rate", lambda *_: 1e15)
        matched, reports = tiny_matched(depth=2, width=512, batch=32), Reports()
        flops = 2 * 32 * (36 * 512 + 512 * 512 + 512 * 4)
        measure_cost(matched.problem(), (), reports, {"base": flops / 3e9})
        (base,) = reports.of("Counted")
        assert base["flops_per_second"] == 4e9, "the second attempt left the floor below the step"
        assert next(rates) == 2e9

    def test_rates_that_stay_too_low_are_reported_after_some_attempts(self, monkeypatch):
        rates = iter(range(1, cost.ATTEMPTS + 1))
        monkeypatch.setattr(cost, "product_rate", lambda *_: float(next(rates)))
        monkeypatch.setattr(cost, "byte_rate", lambda *_: 1e15)
        reports = Reports()
        measure_cost(problem(), (), reports, {"base": 1e-9})
        (base,) = reports.of("Counted")
        assert base["flops_per_second"] == cost.ATTEMPTS

    def test_a_method_that_fails_is_reported_and_the_others_counted(self, breaking):
        breaking(ValueError("no such luck"))
        reports = Reports()
        measure_cost(problem(), ("broken", "backprop"), reports)
        assert [f["method"] for f in reports.of("Failed")] == ["broken"]
        assert [f["method"] for f in reports.of("Counted")] == ["base", "backprop"]


class TestTuning:
    def test_a_given_rate_needs_pacing_only(self):
        reports = Reports()
        tune(tiny_matched(), SPECS, Protocol(Budget(0.05)), None, reports)
        assert [name for name, _ in reports.events if name != "Began"] == ["GridFound"]

    def test_every_method_is_searched_on_the_same_grid_and_its_choice_had_a_whole_run(self):
        reports = Reports()
        tune(tiny_matched(), SPECS, Protocol(Budget(0.03)), Goal(), reports)
        trials = reports.of("Trial")
        by_method = {
            m: [t["learning_rate"] for t in trials if t["method"] == m and not t["full"]] for m in SPECS
        }
        assert by_method["backprop"][:6] == by_method["forward"][:6]
        for tuned in reports.of("Tuned"):
            assert (tuned["method"], tuned["learning_rate"], True) in [
                (t["method"], t["learning_rate"], t["full"]) for t in trials
            ]

    def test_a_whole_run_may_reach_its_target_at_its_end_and_is_judged_by_its_loss_there(self, monkeypatch):
        def points(matched, spec, rate, protocol, further):
            losses = [3.0, 2.0, 1.0, *(0.5 for _ in range(further))]
            return [Point(5 * i, float(i), 0.0, 1.0, loss, 0.5, i > 2) for i, loss in enumerate(losses)]

        monkeypatch.setattr(tune_phase, "_points", points)
        reports = Reports()
        tune(tiny_matched(), ("backprop",), Protocol(Budget(0.03)), Goal("1.0"), reports)
        assert {t["validation_loss"] for t in reports.of("Trial")} == {1.5}
        assert {t["train_seconds"] for t in reports.of("Trial")} == {2}
        assert {(s["targets_reached"], s["target_seconds"]) for s in reports.of("Tuned")[0]["scored"]} == {
            (1, 2)
        }

    def test_a_method_that_fails_is_reported_and_the_others_searched(self, breaking):
        breaking(ValueError("no"))
        reports = Reports()
        tune(tiny_matched(), ("broken", "backprop"), Protocol(Budget(0.02)), Goal(), reports)
        assert [f["method"] for f in reports.of("Failed")] == ["broken"]
        assert [t["method"] for t in reports.of("Tuned")] == ["backprop"]

    def test_of_several_optimisers_the_lowest_loss_decides_and_one_that_does_not_go_is_left_out(self):
        reports = Reports()
        specs = ("backprop", "backprop:update=direct")
        tune(tiny_matched(optimizer="sgd|adam"), specs, Protocol(Budget(0.03)), Goal("0"), reports)
        tuned = {f["method"]: f for f in reports.of("Tuned")}
        assert tuned["backprop:update=direct"]["optimizer"] == "sgd"
        whole = [t for t in reports.of("Trial") if t["method"] == "backprop" and t["full"]]
        assert {t["optimizer"] for t in reports.of("Trial") if t["method"] == "backprop"} == {"sgd", "adam"}
        best = min(whole, key=lambda t: t["validation_loss"])
        assert tuned["backprop"]["optimizer"] == best["optimizer"]
        assert tuned["backprop"]["learning_rate"] == best["learning_rate"]

    def test_where_all_fail_there_is_no_grid(self, breaking):
        breaking(ValueError("no"))
        reports = Reports()
        tune(tiny_matched(), ("broken",), Protocol(Budget(0.02)), Goal(), reports)
        assert [name for name, _ in reports.events if name != "Began"] == ["Failed"]

    def test_grid_is_smooth_for_the_quickest(self):
        assert evaluation_grid([Pace(0.001, 0.0), Pace(0.002, 0.0)], 6.0) == Grid(6000 // POINTS, STRETCH)

    def test_grid_leaves_the_slowest_its_points(self):
        every = evaluation_grid([Pace(0.001, 0.0), Pace(0.1, 0.0)], 6.0).every
        assert 6.0 / 0.1 / every >= LEAST_POINTS

    def test_grid_is_smooth_for_whoever_takes_most_steps_within_the_budget(self):
        assert evaluation_grid([Pace(0.001, 0.0, 600), Pace(0.002, 0.0, 1200)], 6.0).every == 1200 / POINTS

    def test_grid_is_one_step_at_least(self):
        assert evaluation_grid([Pace(5.0, 1.0)], 6.0) == Grid(1, 1)

    def test_short_trials_of_quick_and_slow_are_judged_by_equally_many_steps(self):
        paces, seconds = [Pace(0.001, 0.0), Pace(0.03, 0.0)], 6.0
        grid = short_grid(paces, seconds, evaluation_grid(paces, seconds).every)
        for pace in paces:
            steps, at = TRIAL_SHARE * seconds / pace.step, 0
            seen = []
            while at + grid.after(at) <= steps:
                at += grid.after(at)
                seen.append(at)
            assert len(seen) > JUDGED_POINTS
            assert seen[-1] - seen[-JUDGED_POINTS] == (JUDGED_POINTS - 1) * grid.every
        assert short_grid(paces, seconds, every=2) == Grid(2, 2)
        assert short_grid([Pace(5.0, 0.0)], seconds, every=1) == Grid(1, 1)

    def test_where_evaluation_is_dear_the_start_is_less_close(self):
        cheap, dear = (evaluation_grid([Pace(0.001, cost)], 60.0, every=400) for cost in (0.01, 0.5))
        assert cheap == Grid(400, STRETCH)
        assert dear.first > STRETCH
        assert dear.close_points() * 0.5 <= 0.25 * 60


class TestTraining:
    def trained(self, specs=SPECS, rate: float = 0.05, budget: Budget = Budget(0.05)) -> Reports:  # noqa: B008
        reports = Reports()
        train(tiny_matched(1), dict.fromkeys(specs, rate), Protocol(budget, every=5, first=5), reports)
        return reports

    def test_all_start_at_the_same_loss_and_share_the_grid(self):
        reports = self.trained()
        starts = {f["validation_loss"] for f in reports.of("Evaluated") if f["iteration"] == 0}
        assert len(starts) == 1
        assert all(f["iteration"] % 5 == 0 for f in reports.of("Evaluated"))
        for method in SPECS:
            own = [f["iteration"] for f in reports.of("Evaluated") if f["method"] == method]
            assert own == [5 * i for i in range(len(own))]

    def test_equal_steps_or_equal_queries_end_every_run_where_they_should(self):
        def last(budget: Budget) -> dict[str, int]:
            reports = self.trained(("backprop", "forward", "forward:tangents=5", "spsa"), budget=budget)
            return {f["method"]: f["iteration"] for f in reports.of("Evaluated") if not f["past_budget"]}

        assert set(last(Budget(60.0, iterations=12)).values()) == {12}
        assert last(Budget(60.0, queries=24)) == {
            "backprop": 24 // 3,
            "forward": 24 // 2,
            "forward:tangents=5": 24 // 6,
            "spsa": 24 // 2,
        }

    def test_no_step_is_captured_after_another_method_is_warm(self, monkeypatch):
        """A capture empties the allocator's cache, which others would fill again within their timed steps."""
        simulate(monkeypatch)
        happened: list[str] = []
        warm_up, capture = Trainee.warm_up, Graph._capture

        def warming(trainee: Trainee) -> None:
            warm_up(trainee)
            happened.append("warm")

        def capturing(graph: Graph, tensors: Any) -> Any:
            happened.append("capture")
            return capture(graph, tensors)

        monkeypatch.setattr(Trainee, "warm_up", warming)
        monkeypatch.setattr(Graph, "_capture", capturing)
        matched = replace(tiny_matched(1), choices=Choices(executions={"forward": "cudagraph"}))
        rates = dict.fromkeys(("backprop", "forward", "spsa"), 0.05)
        train(matched, rates, Protocol(Budget(60.0, iterations=2), every=2, first=2), Reports())
        assert happened == ["capture", "warm", "warm", "warm"]

    def test_a_run_of_steps_alone_is_the_same_bit_for_bit(self):
        one, other = (
            [
                {k: v for k, v in f.items() if not k.endswith("_seconds")}
                for f in self.trained(budget=Budget(60.0, iterations=20)).of("Evaluated")
                if f["iteration"]
            ]
            for _ in range(2)
        )
        assert len(one) == 2 * (4 + FURTHER)
        assert one == other

    def test_two_evaluations_follow_the_budget_and_what_is_not_finite_there_is_no_divergence(
        self, monkeypatch
    ):
        losses = iter([3.0, 2.0, 1.0, 0.9, math.nan])
        monkeypatch.setattr(loop, "evaluate", lambda *_: (next(losses), 0.5))
        monkeypatch.setattr(Trainee, "warm_up", lambda self: None)
        reports = self.trained(("backprop",), budget=Budget(60.0, iterations=10))
        assert [(f["iteration"], f["past_budget"]) for f in reports.of("Evaluated")] == [
            (0, False),
            (5, False),
            (10, False),
            (15, True),
            (20, True),
        ]
        assert reports.of("Failed") == []

    def test_a_run_whose_loss_is_not_finite_is_diverged(self):
        reports = self.trained(("backprop",), rate=1e38)
        assert [f["status"] for f in reports.of("Failed")] == ["diverged"]
        assert reports.events[-2][0] == "Evaluated"

    def test_a_method_that_fails_leaves_the_others_training(self, breaking):
        breaking(RuntimeError("CUDA out of memory. Tried to allocate"))
        reports = self.trained(("broken", "backprop"))
        assert [(f["method"], f["status"]) for f in reports.of("Failed")] == [("broken", "oom")]
        assert {f["method"] for f in reports.of("Evaluated")} == {"backprop"}


class TestReporting:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (MemoryError(), "oom"),
            (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
            (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "oom"),
            (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "oom"),
            (RuntimeError("shapes do not match"), "error"),
        ],
        ids=str,
    )
    def test_running_out_of_memory_is_told_from_other_errors(self, error, status):
        reports = Reports()
        report_failure(reports, "m", error)
        assert reports.of("Failed")[0]["status"] == status

    def test_detail_is_one_line_of_limited_length(self):
        reports = Reports()
        report_failure(reports, "m", ValueError("one\ntwo " + "x" * 9999))
        detail = reports.of("Failed")[0]["detail"]
        assert detail.startswith("ValueError: one two x")
        assert len(detail) == LONGEST_DETAIL

    def test_ctrl_c_is_not_a_failure(self):
        with pytest.raises(KeyboardInterrupt), failures_reported(Reports(), "m"):
            raise KeyboardInterrupt

    def test_a_method_that_ruins_the_gpu_is_told_before_the_worker_ends(self, monkeypatch):
        """As in training, where the others would go on and fail for a fault of this one's."""

        def synchronize() -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        reports = Reports()
        with pytest.raises(UnusableDeviceError, match="m: IndexError: out of bounds"):
            report_failure(reports, "m", IndexError("out of bounds"))
        assert [event["method"] for event in reports.of("Failed")] == ["m"]
        with pytest.raises(UnusableDeviceError, match="device-side assert"), blamed(reports, "late"):
            pass  # what was queued inside fails after it

    @pytest.mark.parametrize("lost", [False, True])
    def test_a_gpu_on_which_nothing_runs_any_more_ends_the_worker(self, lost, monkeypatch):
        """Otherwise the methods that follow would fail for a fault of this one's."""

        def synchronize() -> None:
            if lost:
                raise RuntimeError("CUDA error: device-side assert triggered")

        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        reports = Reports()
        ends = (
            pytest.raises(UnusableDeviceError, match="IndexError: out of bounds") if lost else nullcontext()
        )
        with ends, failures_reported(reports, "m"), blamed(reports, "m"):
            raise IndexError("out of bounds")
        blames = [event["method"] for event in reports.of("Began")]
        assert (blames, len(reports.of("Failed"))) == ((["m"], 0) if lost else (["m", ""], 1))


def test_a_copys_recurrent_weights_lie_together_as_cudnn_wants_them(monkeypatch):
    flattened: list[nn.Module] = []
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", lambda self: flattened.append(self))
    own = fresh_copy(nn.Sequential(nn.GRU(3, 4)))
    assert flattened[-1] is own[0]
