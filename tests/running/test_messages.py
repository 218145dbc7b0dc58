"""Messages: what goes through JSON is what comes out of it, and what does not fit is named."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from fgbench.plan import Group
from fgbench.running.arms import ArmSample, Samples
from fgbench.running.choices import Choices
from fgbench.running.messages import (
    EVERYWHERE,
    Done,
    Failed,
    MalformedMessageError,
    Message,
    decode,
    encode,
    from_json,
    to_json,
)
from fgbench.running.phases.train import TrainRequest
from fgbench.running.trainees import Protocol
from fgbench.store.schema import Role
from fgbench.training.loop import Budget
from tests.builders import tiny_group


@dataclass(frozen=True)
class Numbers(Message):
    exact: float
    none: float | None
    many: tuple[float, ...]


@pytest.mark.parametrize("exact", [0.1, 1e-300, math.pi, -0.0, 5.0, math.inf, -math.inf])
def test_numbers_come_back_bit_for_bit(exact):
    sent = Numbers(exact, None, (exact, 1 / 3))
    found = from_json(Numbers, to_json(sent))
    assert found == sent
    assert math.copysign(1, found.exact) == math.copysign(1, exact)


def test_nan_comes_back_as_nan():
    found = from_json(Numbers, to_json(Numbers(math.nan, math.nan, ())))
    assert math.isnan(found.exact)
    assert found.none is not None
    assert math.isnan(found.none)


def test_an_event_is_one_line_whatever_is_in_it():
    event = Failed("own.py:build", "error", 'one\ntwo "three" \\ \u2028 ∇f')
    line = encode(event)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert decode(line, EVERYWHERE) == event


def test_what_is_nested_comes_back_as_what_it_was():
    sample = ArmSample(Role.AA, "backprop", 0, 1, False, 2, 0.5)
    assert decode(encode(Samples((sample,))), (Samples,)) == Samples((sample,))
    request = TrainRequest(
        group=tiny_group(),
        data_dir="nowhere",
        seed=3,
        methods=("forward:tangents=4",),
        choices=Choices(updates={"backprop": {"sgd": "direct"}}),
        protocol=Protocol(Budget(math.inf, iterations=3), 0.1, 5),
        learning_rates={"forward:tangents=4": 1e-3},
        snapshot="a path",
    )
    found = from_json(TrainRequest, to_json(request))
    assert found == request
    assert isinstance(found.group, Group)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "not an event"),
        ("[]", "not an event"),
        ('{"kind": "Failed"}', "not an event"),
        ('{"kind": "Failed", "facts": {"method": "m", "status": "oom"}}', "malformed Failed: detail"),
        (
            '{"kind": "Failed", "facts": {"method": 1, "status": "", "detail": ""}}',
            "malformed Failed: method",
        ),
        ('{"kind": "Done", "facts": {"more": 1}}', "malformed Done: more"),
        ('{"kind": "Numbers", "facts": {}}', "unknown event Numbers: expected one of Done, Failed"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(line, text):
    with pytest.raises(MalformedMessageError, match=text):
        decode(line, (Failed, Done))
