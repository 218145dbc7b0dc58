"""Options from the command line: what is right is kept, what is wrong is said in one line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgbench.errors import UsageError
from fgbench.specs.options import canonical, option, options_of, parse_options, split_spec


@dataclass(frozen=True)
class Owner:
    tangents: int = option(1, "how many", minimum=1)
    scale: float = option(1.0, "how large", minimum=0)
    kind: str = option("plain", "of what kind", choices=("plain", "odd"))
    fast: bool = option(False, "in haste")
    not_an_option: int = 7


@given(
    st.builds(
        Owner,
        tangents=st.integers(1, 10**6),
        scale=st.floats(0, allow_infinity=True),
        kind=st.sampled_from(["plain", "odd"]),
        fast=st.booleans(),
    )
)
def test_canonical_spec_gives_the_same_options_back(owner):
    name, text = split_spec(canonical("m", owner))
    assert name == "m"
    assert parse_options(Owner, name, text) == owner


def test_canonical_leaves_defaults_out():
    assert canonical("m", Owner()) == "m"
    assert canonical("m", Owner(fast=True, tangents=2)) == "m:tangents=2,fast=true"


def test_spaces_and_empty_parts_do_not_matter():
    assert parse_options(Owner, *split_spec(" m : tangents=2 , fast=true, ")) == Owner(2, fast=True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("colour=red", "m has no option 'colour': its options are tangents, scale, kind, fast."),
        ("not_an_option=1", "m has no option 'not_an_option': its options are tangents, scale, kind, fast."),
        ("tangents", "m: option 'tangents' needs a value, as in m:tangents=1."),
        ("tangents=1,tangents=2", "m: option 'tangents' is given twice."),
        ("tangents=two", "m:tangents=two: must be a whole number."),
        ("tangents=", "m:tangents=: must be a whole number."),
        ("tangents=1.5", "m:tangents=1.5: must be a whole number."),
        ("tangents=0", "m:tangents=0: must be at least 1."),
        ("scale=large", "m:scale=large: must be a number."),
        ("scale=-1", "m:scale=-1: must be at least 0."),
        ("scale=nan", "m:scale=nan: must be at least 0."),
        ("kind=even", "m:kind=even: must be one of plain, odd."),
        ("fast=yes", "m:fast=yes: must be true or false."),
    ],
)
def test_a_wrong_option_is_said_in_one_line_with_what_would_be_right(text, line):
    with pytest.raises(UsageError) as caught:
        parse_options(Owner, "m", text)
    assert str(caught.value) == line


def test_options_are_listed_in_their_order_with_help():
    assert [(o.name, o.default, o.help) for o in options_of(Owner)][:2] == [
        ("tangents", 1, "how many"),
        ("scale", 1.0, "how large"),
    ]
