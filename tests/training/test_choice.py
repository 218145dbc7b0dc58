"""The choice of a search: the soonest at the targets that are reported, by one rule for all methods."""

from __future__ import annotations

import math

import pytest

from fgbench.training.choice import BY_LOSS, Goal, WholeRun, choose
from fgbench.training.loop import Point
from fgbench.training.target import Target


def run(rate: float, *losses: float, seconds: float = 1.0, accuracy: float = 0.5) -> WholeRun:
    """Evaluated every so many seconds; its last loss is the one at its end."""
    points = [
        Point(10 * i, seconds * i, 0.0, loss, loss, accuracy if i else 0.0) for i, loss in enumerate(losses)
    ]
    return WholeRun("sgd", rate, losses[-1], points)


SOON = run(0.1, 3.0, 1.0, 1.0, 1.0, 1.0, 0.9)
LOW = run(0.01, 3.0, 2.0, 1.5, 1.0, 0.9, 0.5, 0.4, 0.4, 0.4)
AT_1 = [Target(loss=1.0)]


def test_of_two_that_reach_the_target_the_sooner_is_chosen_though_it_ends_higher():
    chosen = choose([LOW, SOON], AT_1)
    assert (chosen.run, chosen.by) == (SOON, "time to loss 1")
    assert [(own.learning_rate, reached, t) for own, reached, t in chosen.scored] == [
        (0.01, 1, 3.0),
        (0.1, 1, 1.0),
    ]


def test_one_that_reaches_the_target_is_chosen_over_one_that_does_not():
    ends_lower = run(0.1, 3.0, 2.0, 2.0, 2.0, 0.1)  # hit, not held
    assert choose([ends_lower, LOW], AT_1).run is LOW


def test_where_none_reaches_it_the_lower_loss_at_the_end_decides_and_is_said():
    chosen = choose([SOON, LOW], [Target(loss=0.1)])
    assert (chosen.run, chosen.by) == (LOW, BY_LOSS)
    assert [t for _, _, t in chosen.scored] == [None, None]


def test_without_a_target_the_loss_decides_and_of_equals_the_smaller_rate():
    assert choose([SOON, LOW], []).run is LOW
    assert choose([run(0.1, 3.0, 1.0), run(0.01, 3.0, 1.0)], []).run.learning_rate == 0.01
    assert choose([run(0.1, 3.0, math.inf), run(0.01, 3.0, math.inf)], AT_1).run.learning_rate == 0.01


def test_more_targets_reached_count_before_the_time_to_fewer():
    assert choose([SOON, LOW], [Target(loss=1.0), Target(loss=0.4)]).run is LOW


def test_seconds_to_all_targets_count_together():
    one = run(0.1, 3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0)  # 1 s and 4 s
    other = run(0.01, 3.0, 2.5, 2.0, 1.0, 1.0, 1.0)  # 2 s and 3 s, and the smaller rate
    third = run(0.03, 3.0, 2.5, 1.0, 1.0, 1.0)  # 2 s and 2 s
    targets = [Target(loss=2.0), Target(loss=1.0)]
    assert [t for _, _, t in choose([one, other, third], targets).scored] == [5.0, 5.0, 4.0]
    assert choose([one, other, third], targets).run is third


def test_an_accuracy_is_a_target_too():
    slow, quick = run(0.1, 3.0, 0.1, 0.1, 0.1, seconds=2.0), run(0.2, 3.0, 2.0, 2.0, 2.0)
    chosen = choose([slow, quick], [Target(accuracy=0.5)])
    assert (chosen.run, chosen.by) == (quick, "time to accuracy 0.5")


@pytest.mark.parametrize(
    ("goal", "targets"),
    [
        (Goal("0.5,0.25,0.5", "0.9"), [Target(loss=0.5), Target(loss=0.25), Target(accuracy=0.9)]),
        (Goal("auto"), [Target(loss=1.0)]),
        (Goal("backprop-best"), [Target(loss=0.4)]),
        (Goal("50%,100%"), [Target(loss=1.7), Target(loss=0.4)]),
        (Goal("50%", chance=1.0), [Target(loss=0.7)]),
        (Goal("backprop-best", reference="forward"), [Target(loss=1.0)]),
        (Goal("backprop-best,auto", reference="absent"), [Target(loss=1.0)]),
    ],
    ids=str,
)
def test_targets_are_numbers_or_follow_from_the_searchs_own_whole_runs(goal, targets):
    found = {"backprop": [run(0.3, 3.0, 2.0, 2.0, 2.0), LOW], "forward": [SOON]}
    assert goal.targets(found) == targets


def test_there_is_no_target_without_progress():
    assert Goal("auto").targets({"backprop": [run(0.1, 3.0, 3.0, 4.0, 4.0)]}) == []
    assert Goal("auto").targets({}) == []
