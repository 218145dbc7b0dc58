"""Decays of the learning rate: those of torch's schedulers, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from fgbench.errors import UsageError
from fgbench.training.decay import STAYS, Decay, Exponential, decay_of

STEPS = 40


def factors(decay: Decay, count: int = STEPS) -> list[float]:
    return [decay.at(step, STEPS) for step in range(count)]


def torchs(kind: type[lr_scheduler.LRScheduler], **options: float) -> list[float]:
    """The factors of one of torch's schedulers, which are computed from step to step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = kind(optimizer, **options)
    found = []
    for _ in range(STEPS):
        found += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("asked", "kind", "options"),
    [
        (0.25, lr_scheduler.ExponentialLR, {"gamma": math.exp(-0.25)}),
        ("0.25", lr_scheduler.ExponentialLR, {"gamma": math.exp(-0.25)}),
        ("step:every=7,factor=0.2", lr_scheduler.StepLR, {"step_size": 7, "gamma": 0.2}),
        ("step:every=15", lr_scheduler.StepLR, {"step_size": 15, "gamma": 0.1}),
        ("cosine", lr_scheduler.CosineAnnealingLR, {"T_max": STEPS}),
    ],
)
def test_the_factors_are_those_of_torchs_schedulers(asked, kind, options):
    assert factors(decay_of(asked)) == pytest.approx(torchs(kind, **options), rel=1e-9)


def test_a_warm_up_rises_linearly_to_the_full_rate_and_the_cosine_takes_the_steps_that_are_left():
    found = factors(decay_of("cosine:warmup=4"), STEPS + 3)
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[4 + 18] == pytest.approx(0.5), "half of the 36 steps after the warm-up"
    assert found[STEPS:] == [0.0, 0.0, 0.0], "nothing moves after the last step"


def test_a_rate_stays_where_no_decay_is_asked_for():
    assert decay_of(0.0) == decay_of("0") == STAYS == Exponential(0.0)
    assert set(factors(STAYS)) == {1.0}
    assert STAYS.in_words() == ""


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (1e-4, "· exp(−0.0001 i) at step i"),
        ("step:every=11700,factor=0.2", "· 0.2 every 11700 steps"),
        ("cosine", "to 0 in half a cosine"),
        ("cosine:warmup=100", "to 0 in half a cosine after 100 steps of warm-up"),
    ],
)
def test_a_report_says_what_happens_to_the_rate(asked, words):
    assert decay_of(asked).in_words() == words


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        *(
            (bad, f"--lr-decay {bad}: must be a number from 0 on, step:")
            for bad in ("-1", "nan", "inf", "", "x")
        ),
        ("linear:to=0", "--lr-decay linear:to=0: must be a number from 0 on, step:every=1000,factor=0.1 or"),
        ("step:every=0", "--lr-decay step:every=0: must be at least 1"),
        ("step:factor=-1", "--lr-decay step:factor=-1: must be at least 0"),
        ("cosine:warmup=1.5", "--lr-decay cosine:warmup=1.5: must be a whole number"),
        ("cosine:end=0", "--lr-decay cosine has no option 'end': its options are warmup"),
    ],
)
def test_what_it_cannot_be_is_said_with_what_it_can(asked, line):
    with pytest.raises(UsageError) as caught:
        decay_of(asked)
    assert line in str(caught.value)
