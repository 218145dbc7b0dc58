"""How long jobs take here: steps of a pilot times those of the runs, and what is planned beside."""

from __future__ import annotations

import warnings

import pytest

from fgbench.reproduction import pilot
from fgbench.running.phases.quality import SHARE
from fgbench.running.phases.time import phase as time
from fgbench.training.pacing import Pace
from fgbench.training.search import TYPICAL_RUNS
from tests.builders import config

LONG = {"max_train_seconds": 1e6, "max_iterations": 1000, "evaluate_every": 10, "seeds": 4}


@pytest.fixture
def paced(monkeypatch):
    """A step of backprop takes 2 s and one of forward 3 s, an evaluation 5 s."""

    def pace(matched, spec, protocol):
        return Pace({"backprop": 2.0, "forward": 3.0}[spec], 5.0, protocol.budget.steps(1))

    monkeypatch.setattr(pilot, "pace", pace)


def close(seconds: float) -> object:
    return pytest.approx(seconds, rel=0.02)  # the first evaluations are closer


@pytest.mark.parametrize(("rate", "runs"), [(0.1, 4), ((0.1, 0.2), 4), (None, 4 + TYPICAL_RUNS)])
def test_it_is_the_steps_and_evaluations_of_all_runs(paced, rate, runs):
    found = pilot.seconds_here(config(time=False, learning_rate=rate, **LONG))
    assert found == close(runs * (1000 * (2 + 3) + 2 * 100 * 5) * (1 + SHARE))


def test_a_budget_of_seconds_ends_a_run_and_timing_is_as_planned(paced):
    short = config(
        time=False, learning_rate=0.1, **(LONG | {"max_train_seconds": 300.0, "evaluate_every": 1})
    )
    evaluations = (300 / 2 + 300 / 3) * 5
    assert pilot.seconds_here(short) == pytest.approx(4 * (600 + evaluations) * (1 + SHARE), rel=0.05)
    timed = config(train=False)
    assert pilot.seconds_here(timed) >= time.seconds(timed)


def test_what_torch_announces_for_later_is_not_shown(monkeypatch):
    def pace(*_):
        text = "`torch.jit.script` is deprecated."
        warnings.warn_explicit(text, FutureWarning, "_script.py", 1, module="torch.jit._script")
        return Pace(1.0, 1.0, 1)

    monkeypatch.setattr(pilot, "pace", pace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pilot.seconds_here(config(time=False, learning_rate=0.1))


def test_a_real_step_is_timed():
    assert 0 < pilot.seconds_here(config(time=False, learning_rate=0.1, max_iterations=3, seeds=1)) < 60
