"""What a method is prepared with, from what was chosen for it."""

from __future__ import annotations

from dataclasses import replace

from fgbench.methods import BEST
from fgbench.running.choices import Choices
from tests.builders import tiny_group


def test_a_method_for_which_no_best_mode_was_found_runs_eagerly():
    group = replace(tiny_group(), execution=BEST)
    found = Choices(executions={"forward": "compile"})
    assert found.conditions_of(group, "forward").execution == "compile"
    assert found.conditions_of(group, "backprop").execution == "eager"
