"""The quality phase: weights that training leaves, estimates at each of them, and what cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fgbench.methods.steps.oracle import cosine
from fgbench.plan import Plan
from fgbench.running import group_run
from fgbench.running.arms import Problem
from fgbench.running.choices import Choices
from fgbench.running.judging import START, Judge, Reader, WeightsPoint
from fgbench.running.messages import Began, Failed, Message
from fgbench.running.phases import quality
from fgbench.running.phases.quality import Estimated, QualityRequest, TooSlow, measure_quality, phase
from fgbench.running.phases.train import Evaluated, train
from fgbench.running.run import run_plan
from fgbench.running.snapshot import Snapshot
from fgbench.running.trainees import Protocol
from fgbench.running.weights import KeptWeights, Weights, load_weights
from fgbench.training.loop import Budget
from tests.builders import (
    Recorder,
    config,
    cross_entropy,
    room_for,
    run_folder,
    tiny_batch,
    tiny_group,
    tiny_matched,
    tiny_mlp,
)
from tests.methods.steps.test_oracle import Crosses
from tests.scripted import Script, event

STEPS = 40
PROTOCOL = Protocol(Budget(600.0, iterations=STEPS), every=4, first=4)
CPU = torch.device("cpu")


def trained(
    folder: Path | None, snapshot: Snapshot | None = None, stop_after: int | None = None, **rates: float
) -> list[str]:
    """Train a group; the losses that it reported."""
    found: list[str] = []

    def report(told: Message) -> None:
        if len(found) == stop_after:
            raise KeyboardInterrupt
        if isinstance(told, Evaluated):
            found.append(f"{told.method} {told.iteration} {told.validation_loss!r}")

    rates = rates or {"backprop": 0.05, "forward": 0.001}
    train(tiny_matched(1), rates, PROTOCOL, report, snapshot, KeptWeights(folder))
    return found


def asked(folder: Path, *methods: str, seconds: float = 60.0) -> QualityRequest:
    return QualityRequest(
        group=tiny_group(),
        data_dir="nowhere",
        seed=1,
        methods=methods or ("backprop", "forward"),
        choices=Choices(),
        weights=str(folder),
        reference="backprop",
        seconds=seconds,
    )


def answered(request: QualityRequest) -> list[Message]:
    found: list[Message] = []
    phase.measure(tiny_matched(1), request, found.append)
    return [event for event in found if not isinstance(event, Began)]


def whole(events: list[Message]) -> Iterator[Estimated]:
    return (e for e in events if isinstance(e, Estimated) and e.layer == "all")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MOST_DRAWS", 6)


class TestWeightsOnTheWay:
    def test_training_keeps_them_at_a_tenth_three_tenths_and_the_end(self, tmp_path):
        trained(tmp_path / "weights")
        kept = [load_weights(file, CPU) for file in KeptWeights(tmp_path / "weights").files()]
        assert [(w.method, w.iteration) for w in kept] == [
            *(("backprop", 4), ("backprop", 12), ("backprop", STEPS)),
            *(("forward", 4), ("forward", 12), ("forward", STEPS)),
        ]

    def test_they_leave_training_as_it_would_have_been(self, tmp_path):
        assert trained(tmp_path / "weights") == trained(None)

    def test_a_run_that_diverges_leaves_those_of_its_end(self, tmp_path):
        trained(tmp_path, backprop=0.05, forward=1e30)
        kept = [load_weights(file, CPU) for file in KeptWeights(tmp_path).files()]
        own = [w for w in kept if w.method == "forward"]
        assert len(own) == 1
        assert not all(t.isfinite().all() for t in own[0].model.values())

    def test_a_training_that_goes_on_keeps_the_rest(self, tmp_path):
        def snapshot() -> Snapshot:
            return Snapshot(tmp_path / "state.pt", (Evaluated,), seconds=0.0)

        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", snapshot(), stop_after=8)
        trained(tmp_path / "cut", snapshot())
        trained(tmp_path / "whole")
        cut, full = (KeptWeights(tmp_path / name).files() for name in ("cut", "whole"))
        assert [f.name for f in cut] == [f.name for f in full]
        for one, other in zip(cut, full, strict=True):
            a, b = load_weights(one, CPU), load_weights(other, CPU)
            assert (a.method, a.iteration) == (b.method, b.iteration)
            assert all(torch.equal(a.model[name], b.model[name]) for name in a.model)

    def test_a_disk_that_takes_none_costs_no_training(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        assert trained(tmp_path / "file" / "weights") == trained(None)

    def test_a_disk_that_fills_up_costs_them_alone_and_nothing_torn_is_left(self, tmp_path):
        with room_for(900):
            assert trained(tmp_path / "weights") == trained(None)
        assert list((tmp_path / "weights").iterdir()) == []


class TestAWorker:
    def test_all_are_judged_at_the_references_weights_and_each_at_its_own(self, tmp_path):
        trained(tmp_path)
        at = [(e.method, e.weights, e.iteration) for e in whole(answered(asked(tmp_path)))]
        both = [("start", 0), *(("backprop", i) for i in (4, 12, STEPS))]
        assert at == [
            *((method, *point) for point in both for method in ("backprop", "forward")),
            *(("forward", "forward", i) for i in (4, 12, STEPS)),
        ]

    def test_backprop_is_the_gradient_and_forward_is_as_long_as_theory_has_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(quality, "MOST_DRAWS", 60)
        found = {(e.method, e.weights): e for e in whole(answered(asked(tmp_path)))}
        exact, forward = found["backprop", "start"], found["forward", "start"]
        assert exact.cosine == pytest.approx(1, abs=1e-5)
        assert exact.second_moment == pytest.approx(1, abs=1e-4)
        assert exact.cosine_large is not None
        assert 0 < exact.cosine_large < 1, "a batch is not all data"
        assert (exact.signal_to_noise, exact.clipped, exact.non_finite) == (None, None, 0)
        assert forward.second_moment is not None
        assert forward.second_moment_theory is not None
        assert forward.second_moment_error is not None
        off = abs(forward.second_moment - forward.second_moment_theory)
        assert off < 4 * forward.second_moment_error
        assert exact.gradient_norm == forward.gradient_norm

    def test_each_layer_has_a_row(self, tmp_path):
        own = [e for e in answered(asked(tmp_path)) if isinstance(e, Estimated) and e.method == "forward"]
        names = [name.rpartition(".")[0] for name, _ in tiny_matched().model.named_parameters()]
        assert [e.layer for e in own] == ["all", *dict.fromkeys(names)]
        assert all(e.second_moment_theory is None for e in own[1:])

    def test_seconds_that_are_short_leave_the_start_or_nothing(self, tmp_path):
        trained(tmp_path)
        (told,) = answered(asked(tmp_path, seconds=0.0))
        assert isinstance(told, TooSlow)
        assert told.seconds > 0

    def test_derivatives_that_are_clipped_are_counted(self, tmp_path):
        clipping, free = "forward:clip=1e-6", "forward:clip=1e6"
        found = {e.method: e for e in whole(answered(asked(tmp_path, "backprop", clipping, free, "forward")))}
        assert (found[clipping].clipped, found[free].clipped, found["forward"].clipped) == (1.0, 0.0, None)
        by_sample = "forward:structure=activity,clip=1e-9"
        assert next(whole(answered(asked(tmp_path, by_sample)))).clipped == 1.0

    def test_networks_of_a_methods_own_are_not_trained_by_it(self, tmp_path):
        """Otherwise the rate of a draw would break them, and the next draw with them."""
        for method in ("local-losses", "fdfa", "local-guess:guess=local"):
            told = list(whole(answered(asked(tmp_path, method))))
            assert [e.status for e in told] == ["ok"], method


class TestWhatCannotBeJudged:
    def judged(self, model: torch.nn.Module, x: torch.Tensor, *methods: str) -> list[Message]:
        batch = x, torch.zeros(len(x), dtype=torch.int64)
        problem = Problem(model, cross_entropy, [batch], 0)
        found: list[Message] = []
        measure_quality(problem, [WeightsPoint("start", 0, methods, lambda _: batch)], 60.0, found.append)
        return found

    def test_a_gradient_of_zero_is_a_stated_row(self):
        model = tiny_mlp()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model[-1].bias[0] = 1e4  # type: ignore[index]  # certain of the class that is right
        found = self.judged(model, torch.ones(4, 1, 4, 4, dtype=torch.float64), "backprop", "forward")
        assert {(e.method, e.status, e.cosine) for e in whole(found)} == {
            ("backprop", "zero gradient", None),
            ("forward", "zero gradient", None),
        }

    def test_what_is_not_finite_is_a_stated_row_with_its_share(self):
        x = torch.full((4, 1, 4, 4), float("nan"), dtype=torch.float64)
        found = list(whole(self.judged(tiny_mlp(), x, "backprop", "forward", "dfa")))
        assert {(e.method, e.status, e.non_finite) for e in found} == {
            ("backprop", "not finite", 1.0),
            ("forward", "not finite", 1.0),
            ("dfa", "not finite", 1.0),
        }

    def test_a_method_that_fails_is_reported_and_leaves_the_others(self, monkeypatch):
        def failing(self: Reader, batch: Any, rate: float) -> Any:
            if self.spec == "forward" and len(self.counts) == 2:
                raise RuntimeError("out of luck")
            return real(self, batch, rate)

        real = Reader.estimate
        monkeypatch.setattr(Reader, "estimate", failing)
        found = self.judged(tiny_mlp(), torch.ones(4, 1, 4, 4).double(), "forward", "backprop")
        (failed,) = [e for e in found if isinstance(e, Failed)]
        assert (failed.method, failed.detail) == ("forward", "RuntimeError: out of luck")
        assert [e.method for e in whole(found)] == ["backprop"]


class TestTheRunner:
    def ran(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, **changes: Any) -> Any:
        monkeypatch.setattr(group_run, "work", script)
        plan = Plan(config(seeds=1, time=False, **changes), (tiny_group(),))
        folder, watcher = run_folder(tmp_path, plan.groups), Recorder()
        run_plan(plan, folder, {tiny_group().name: "c0"}, watcher)
        return folder, watcher

    def test_the_weights_that_training_was_told_to_keep_are_read_and_then_gone(self, tmp_path, monkeypatch):
        kept: list[Path] = []

        def training(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
            kept.append(Path(request["weights"]))
            kept[0].mkdir(parents=True)
            (kept[0] / "0-1.pt").write_text("weights")
            yield from Script().train(request)

        def judging(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
            assert (Path(request["weights"]) / "0-1.pt").exists()
            yield from Script().quality(request)

        folder, _ = self.ran(tmp_path, monkeypatch, Script(train=training, quality=judging))
        rows = folder.read("quality")
        assert list(rows["method"]) == ["backprop", "backprop", "forward", "forward"]
        assert not kept[0].parent.exists()

    def test_only_the_first_seed_keeps_weights(self, tmp_path, monkeypatch):
        script = Script()
        monkeypatch.setattr(group_run, "work", script)
        plan = Plan(config(seeds=3, time=False), (tiny_group(),))
        run_plan(plan, run_folder(tmp_path, plan.groups), {tiny_group().name: "c0"}, Recorder())
        assert [bool(r["weights"]) for r in script.of_phase("train")] == [True, False, False]

    def test_what_would_take_too_long_is_left_out_and_said(self, tmp_path, monkeypatch):
        script = Script(quality=lambda request: iter([event("TooSlow", seconds=500.0)]))
        folder, watcher = self.ran(tmp_path, monkeypatch, script)
        assert folder.read("quality").empty
        assert any("it would take 500 s" in note for note in watcher.notes)

    def test_it_takes_a_twentieth_of_the_rest(self):
        long = config(max_train_seconds=600.0, time=False)
        seconds = sum(p.seconds(long) for p in group_phases(long) if p is not phase)
        assert phase.seconds(long) == pytest.approx(0.05 * seconds)


def group_phases(asked: Any) -> list[Any]:
    from fgbench.running.phases import in_order

    return in_order(asked)


def test_masks_of_an_estimate_are_its_gradients_where_values_lie_otherwise_in_memory():
    """With as many orthonormal tangents as parameters an estimate is the gradient, of the same masks."""
    torch.manual_seed(0)
    batch, model = tiny_batch(), Crosses().double()
    problem, count = Problem(model, cross_entropy, [batch], 0), sum(p.numel() for p in model.parameters())
    judge, reader = Judge(problem), Reader(problem, f"forward:tangents={count},structure=orthonormal")
    reader.begin(Weights(START, 0, judge.start, {}))
    for number in range(3):
        with judge._masks(number):
            estimate = reader.estimate(batch, 1.0)
        assert cosine(estimate, judge.gradient(batch, number)) == pytest.approx(1.0, abs=1e-6)
